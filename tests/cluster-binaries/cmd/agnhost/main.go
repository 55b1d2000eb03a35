// SPDX-License-Identifier: Apache-2.0

// The commands of agnhost (the image of the tests of Kubernetes) that Pods of the LoadBalancer tests run.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/test/images/agnhost/netexec"
	"k8s.io/kubernetes/test/images/agnhost/pause"
	servehostname "k8s.io/kubernetes/test/images/agnhost/serve-hostname"
)

func main() {
	root := &cobra.Command{Use: "agnhost"}
	root.AddCommand(netexec.CmdNetexec, pause.CmdPause, servehostname.CmdServeHostname)
	os.Exit(cli.Run(root))
}
