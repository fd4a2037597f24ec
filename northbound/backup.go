package northbound

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
)

const (
	backupPath  = "/v1/backup"
	restorePath = "/v1/restore"

	// maxBackup is the largest backup taken back, in bytes.
	maxBackup = 1 << 30
	// backupTime is how long a backup may be on its way.
	backupTime = 10 * time.Minute
)

// Backups writes and takes back everything that is stored. It is implemented by the
// command.
type Backups interface {
	// Backup writes a consistent copy.
	Backup(w io.Writer) error
	// Restore takes a copy and has the server begin anew from it once the answer is
	// sent. A copy that is none is ErrBadBackup.
	Restore(r io.Reader) error
}

// ErrBadBackup says that what was sent is no backup that this version can read.
var ErrBadBackup = errors.New("not a backup that this version can read")

func (s *Server) getBackup(c echo.Context) error {
	_ = http.NewResponseController(c.Response()).SetWriteDeadline(time.Now().Add(backupTime))
	c.Response().Header().Set("Content-Type", "application/octet-stream")
	c.Response().Header().Set("Content-Disposition", `attachment; filename="fairlead.backup"`)
	return s.o.Backups.Backup(c.Response())
}

// Restored is the answer of /v1/restore.
type Restored struct {
	Restarting bool `json:"restarting"` // the server begins anew from the backup
}

func (s *Server) postRestore(c echo.Context) error {
	control := http.NewResponseController(c.Response())
	_ = control.SetReadDeadline(time.Now().Add(backupTime))
	_ = control.SetWriteDeadline(time.Now().Add(backupTime))
	if err := s.o.Backups.Restore(c.Request().Body); err != nil {
		if errors.Is(err, ErrBadBackup) {
			return badField("body", "is %s", ErrBadBackup)
		}
		return err
	}
	return respond(c, http.StatusAccepted, Restored{Restarting: true})
}
