package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// Names of files beside the database: a backup that takes its place when the store is
// next opened, and the database that was replaced by the last one.
const (
	restoreName  = FileName + ".restore"
	replacedName = FileName + ".replaced"
)

// Backup writes a copy of the store as of one revision, which Restore takes. It holds
// everything, keys too. Transactions go on meanwhile.
func (s *Store) Backup(w io.Writer) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: backup: %w", closed(err))
	}
	return nil
}

// Restore reads what Backup wrote and lays it ready in the directory of a store: the
// next Open takes it, and keeps the file that it replaces as fairlead.db.replaced.
// What is no store of this version or an older one is refused with ErrCorrupt or
// ErrNewer, and nothing changes.
func Restore(dir string, r io.Reader) error {
	f, err := os.CreateTemp(dir, restoreName+"-*")
	if err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	defer os.Remove(f.Name()) // without effect once it is renamed
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = checkFile(f.Name())
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, restoreName))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("store: restore: %w", err)
	}
	return nil
}

// checkFile says whether a file is a whole store that this version can open.
func checkFile(path string) error {
	if info, err := os.Stat(path); err != nil {
		return err
	} else if info.Size() == 0 { // bbolt would make a new database of it
		return fmt.Errorf("%w: empty", ErrCorrupt)
	}
	db, err := openFile(path, time.Second)
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(metaBucket))
		if b == nil {
			return fmt.Errorf("%w: no schema number", ErrCorrupt)
		}
		var have uint64
		if err := new(Store).load(b, &have); err != nil {
			return err
		}
		if have > schema() {
			return newer(have)
		}
		return nil
	})
}

// takeRestored puts a backup that lies ready in the place of the database. It may end
// between any two steps and be done again.
func takeRestored(dir string) error {
	ready, path := filepath.Join(dir, restoreName), filepath.Join(dir, FileName)
	if _, err := os.Stat(ready); err != nil {
		return nil
	}
	if old, err := os.Open(path); err == nil {
		defer old.Close()
		// The lock is that of bbolt: nobody has the old one open.
		if err := syscall.Flock(int(old.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return ErrLocked
		}
		replaced := filepath.Join(dir, replacedName)
		if err := os.Remove(replaced); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Link(path, replaced); err != nil {
			return err
		}
	}
	if err := os.Rename(ready, path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory outlive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
