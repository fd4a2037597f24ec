package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/controller/store"
)

func lldpKeyCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "lldp-key", Short: "Replace the key of discovery probes, of a controller that is stopped", Args: cobra.NoArgs,
		Long: "Replace the key that authenticates discovery probes.\n\nThe controller must be stopped. What it knows of the network is believed for half a\n" +
			"minute when it is started again, which is time enough to find it with the new key; probes of the\nold one are not believed from then on.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := store.Open(dir, store.Options{})
			if err != nil {
				return refused(err)
			}
			if err := errors.Join(db.NewLLDPKey(), db.Close()); err != nil {
				return refused(err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the key is replaced")
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data", "/var/lib/fairlead", "`DIR` of the store")
	return cmd
}
