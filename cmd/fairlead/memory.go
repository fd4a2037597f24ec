package main

import (
	"os"
	"runtime/debug"
)

// heapGrowth is by how much of its live size the heap may grow between two collections,
// in percent. To look at all that 10,000 VIPs need takes as long as a third of bringing
// them into a switch, on a processor that the switch may want too, so it is done less
// often than Go does by itself; see docs/balancing.md, Size, for the memory that costs.
const heapGrowth = 200

// growHeap sets heapGrowth, unless GOGC says something else.
func growHeap() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(heapGrowth)
	}
}
