//go:build !soak

package store

const killed = 5 // times, in TestR01Killed
