//go:build !soak

package reliability

const soak = false
