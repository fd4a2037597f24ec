package main

import (
	"fmt"
	"slices"
)

// sample is one figure of each turn.
type sample []float64

// quantile returns the value below which the given part of the sample is.
func (s sample) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (s sample) median() float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// over returns the ratios of two samples, turn by turn.
func (s sample) over(o sample) sample {
	r := make(sample, min(len(s), len(o)))
	for i := range r {
		r[i] = s[i] / o[i]
	}
	return r
}

// text is the median and the spread, each value in the given format.
func (s sample) text(format string) string {
	if len(s) == 0 {
		return "–"
	}
	return fmt.Sprintf(format+" ("+format+" – "+format+")", s.median(), slices.Min(s), slices.Max(s))
}

// target says whether a median reaches what it should.
func target(s sample, least, most float64) string {
	m := s.median()
	want, met := fmt.Sprintf("at least %g", least), m >= least
	if most > 0 {
		want, met = fmt.Sprintf("at most %g", most), m <= most
	}
	if met {
		return "target " + want + ": met"
	}
	return "target " + want + ": MISSED"
}
