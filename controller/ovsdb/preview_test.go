package ovsdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPreview compares what would be written with what is: an adoption and a release,
// without an earlier controller and with one.
func TestPreview(t *testing.T) {
	for name, more := range map[string][]string{
		"bare": nil,
		"with a controller": {
			"--", "set-controller", "s1", "tcp:192.0.2.1:6653", "--", "set-fail-mode", "s1", "standalone",
			"--", "set", "bridge", "s1", "protocols=OpenFlow10", "other_config:disable-in-band=false", "external_ids:of=somebody",
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.bridge("s1", more...)
			at := l.endpoint()
			first, err := l.Rows(t.Context(), at, "s1")
			require.NoError(t, err)
			written := l.written()
			_, err = l.PreviewRelease(t.Context(), at, "s1")
			require.ErrorIs(t, err, ErrNotAdopted)
			says, err := l.PreviewAdopt(t.Context(), Request{Endpoint: at, Bridges: []string{"s1"}, Stage: "steer"})
			require.NoError(t, err)
			require.Equal(t, written, l.written(), "a preview writes nothing")

			l.adopted("s1")
			now, err := l.Rows(t.Context(), at, "s1")
			require.NoError(t, err)
			of := func(list []Change, table string) (texts []string) {
				for _, c := range list {
					if c.Table == table && c.Column != "external_ids" { // the record has the time in it
						texts = append(texts, c.String())
					}
				}
				return texts
			}
			require.Equal(t, of(now.Differences(first), "Bridge"), of(says, "Bridge"))
			require.NotEmpty(t, of(says, "Bridge"))
			controllers := strings.Join(of(says, "Controller"), "\n")
			require.Contains(t, controllers, `Controller `+us+` target: (none) → `+us)
			if more != nil {
				require.Contains(t, controllers, `Controller tcp:192.0.2.1:6653 target: tcp:192.0.2.1:6653 → (none)`)
			}

			again, err := l.PreviewAdopt(t.Context(), Request{Endpoint: at, Bridges: []string{"s1"}, Stage: "observe"})
			require.NoError(t, err)
			require.Empty(t, again, "only its stage would change")
			says, err = l.PreviewRelease(t.Context(), at, "s1")
			require.NoError(t, err)
			require.Equal(t, of(first.Differences(now), "Bridge"), of(says, "Bridge"))
			require.NoError(t, l.Release(t.Context(), at, "s1"))
			now, err = l.Rows(t.Context(), at, "s1")
			require.NoError(t, err)
			require.Empty(t, now.Differences(first), "all is as it was")
			require.Equal(t, written, l.written())
		})
	}
}

// TestPreviewRefuses says what Adopt would.
func TestPreviewRefuses(t *testing.T) {
	l := newLab(t)
	l.bridge("s1", "--", "set", "bridge", "s1", "stp_enable=true")
	_, err := l.PreviewAdopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"s1"}, Stage: "managed"})
	refusal := new(Refusal)
	require.ErrorAs(t, err, &refusal)
	require.Contains(t, refusal.Reason, "STP")
	_, err = l.PreviewAdopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"s9"}, Stage: "steer"})
	require.ErrorIs(t, err, ErrNoBridge)
	_, err = l.Rows(t.Context(), l.endpoint(), "s9")
	require.ErrorIs(t, err, ErrNoBridge)
	_, err = l.Rows(t.Context(), "unix:/nowhere", "s1")
	require.ErrorIs(t, err, ErrNotConnected)
}
