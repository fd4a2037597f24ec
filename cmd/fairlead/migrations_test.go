package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/store"
)

func TestMigrationStore(t *testing.T) {
	db, err := store.Open(t.TempDir(), store.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	s := migrationStore{db}
	require.NoError(t, s.Write(t.Context(), map[string][]byte{"a": []byte("1"), "a/plan": []byte("2")}))
	require.NoError(t, s.Write(t.Context(), map[string][]byte{"a/plan": nil, "b": []byte("3"), "c": nil}))
	all, err := s.Entries(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[string][]byte{"a": []byte("1"), "b": []byte("3")}, all)
	one, err := s.Entry(t.Context(), "b")
	require.NoError(t, err)
	require.Equal(t, "3", string(one))
	one, err = s.Entry(t.Context(), "c")
	require.NoError(t, err)
	require.Nil(t, one)
}
