package northbound

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBackupAndRestore(t *testing.T) {
	r := newRig(t)
	resp := r.do("GET /v1/backup", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "application/octet-stream", resp.Header.Get("Content-Type"))
	require.Equal(t, "backup of now", string(resp.body))

	// More than other bodies may have.
	large := "backup" + strings.Repeat(" ", 2*maxBody)
	require.Equal(t, true, r.ok(202, "POST /v1/restore", large)["restarting"])
	require.Equal(t, large, r.backups.text)

	resp = r.do("POST /v1/restore", "something else")
	require.Equal(t, 400, resp.StatusCode)
	require.Contains(t, string(resp.body), "body: is not a backup that this version can read")
	require.Equal(t, large, r.backups.text, "nothing changed")
}
