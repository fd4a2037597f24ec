//go:build soak

package scale

const soak = true
