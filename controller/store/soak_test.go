//go:build soak

package store

const killed = 200 // times, in TestR01Killed
