//go:build e2e && soak

package e2e

const soak = true
