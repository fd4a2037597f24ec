package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/northbound"
)

// errRestored says that serve has ended to begin anew from a backup.
var errRestored = errors.New("a backup was restored")

// backups is the store as the REST API backs it up.
type backups struct {
	db       *store.Store
	dir      string
	restored chan struct{} // holds one
}

func (b backups) Backup(w io.Writer) error { return b.db.Backup(w) }

func (b backups) Restore(r io.Reader) error {
	err := store.Restore(b.dir, r)
	switch {
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrNewer):
		return fmt.Errorf("%w: %w", northbound.ErrBadBackup, err)
	case err != nil:
		return err
	}
	select {
	case b.restored <- struct{}{}:
	default: // of two that come together the later one is taken
	}
	return nil
}

// wait returns errRestored once a backup lies ready.
func (b backups) wait(ctx context.Context) error {
	select {
	case <-b.restored:
		return errRestored
	case <-ctx.Done():
		return nil
	}
}

func backupCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use: "backup FILE", Short: "Copy everything that the server has stored into a file", Args: cobra.ExactArgs(1),
		Long: "Copy everything that the server has stored into a file, or to standard output (-).\nThe server's keys are in it: keep it where nobody else reads it.",
	}, outputs, func(c *client, args []string) error {
		resp, err := c.send(c.ctx, call{method: http.MethodGet, path: "/v1/backup"})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if args[0] == "-" {
			_, err := io.Copy(c.out, resp.Body)
			return refused(err)
		}
		// Whole or not at all: an older backup stays until the new one is complete.
		part := args[0] + ".part"
		f, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return refused(err)
		}
		defer os.Remove(part)
		n, err := io.Copy(f, resp.Body)
		if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
			err = os.Rename(part, args[0])
		}
		if err != nil {
			return refused(fmt.Errorf("backup: %w", err))
		}
		body, err := json.Marshal(map[string]any{"file": args[0], "bytes": n})
		if err != nil {
			return err
		}
		return c.print(body, func(w *tabwriter.Writer) error {
			fmt.Fprintf(w, "%s: %d bytes\n", args[0], n)
			return nil
		})
	})
}

func restoreCommand() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use: "restore FILE", Short: "Have the server begin anew from a backup", Args: cobra.ExactArgs(1),
		Long: "Have the server begin anew from a backup. What it has stored now is kept beside it as fairlead.db.replaced.\n" +
			"Switches that were programmed after the backup was taken are held: see 'fairlead switch list' and 'fairlead switch confirm'.",
	}, outputs, func(c *client, args []string) error {
		b, err := os.ReadFile(args[0])
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(b)) == 0 {
			return fmt.Errorf("%s is empty", args[0])
		}
		a, err := c.do(call{method: http.MethodPost, path: "/v1/restore", body: b, headers: []string{"Content-Type", "application/octet-stream"}})
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			fmt.Fprintln(w, "restored; the server begins anew")
			return nil
		})
	})
}
