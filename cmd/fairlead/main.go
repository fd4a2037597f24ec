// Command fairlead is the controller (fairlead serve) and its clients.
//
// Exit codes: 0 done, 1 the server or the network refused, 2 wrong usage.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// version is set by the linker for releases; otherwise it is read from the build.
var version = ""

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit codes of the command.
const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

// refusal is an error of the server or the network: what was asked for was well put.
// Every other error that a command returns is wrong usage.
type refusal struct{ err error }

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

func refused(err error) error {
	if err == nil {
		return nil
	}
	return refusal{err}
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(stderr, "fairlead: %v\n", err)
	if r := (refusal{}); errors.As(err, &r) {
		return exitRefused
	}
	fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
	return exitUsage
}

func rootCommand() *cobra.Command {
	root := group("fairlead", "Load balancing in OpenFlow switches",
		serveCommand(), vipCommand(), memberCommand(), switchCommand(), ovsCommand(), migrateCommand(), topologyCommand(), explainCommand(), reachabilityCommand(), backupCommand(), restoreCommand(), lldpKeyCommand(), versionCommand())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(helpCommand(root))
	return root
}

// helpCommand prints what --help does. Other than cobra's own, it does not take a command
// that there is none of for done.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND…]", Short: "Help about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// group is a command that is nothing without one of its subcommands.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("%s has no command %q", cmd.CommandPath(), args[0])
			}
			return fmt.Errorf("%s needs a command", cmd.CommandPath())
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs}
	output := outputFlag(cmd, outputs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkOutput(*output, outputs); err != nil {
			return err
		}
		body, err := json.Marshal(map[string]string{"version": programVersion()})
		if err != nil {
			return err
		}
		c := &client{output: *output, out: printed{cmd.OutOrStdout()}}
		return c.print(body, func(w *tabwriter.Writer) error {
			fmt.Fprintf(w, "fairlead %s\n", programVersion())
			return nil
		})
	}
	return cmd
}

// programVersion is what version and the server say of themselves.
func programVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			rev = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if rev == "" {
		return "devel"
	}
	return "devel-" + rev + dirty
}
