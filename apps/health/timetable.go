package health

// timetable is a heap of checks by when they are next looked at.
type timetable []*check

func (t timetable) Len() int           { return len(t) }
func (t timetable) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timetable) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].index, t[j].index = i, j
}

// Push implements heap.Interface.
func (t *timetable) Push(x any) {
	k := x.(*check)
	k.index = len(*t)
	*t = append(*t, k)
}

// Pop implements heap.Interface.
func (t *timetable) Pop() any {
	k := (*t)[len(*t)-1]
	(*t)[len(*t)-1] = nil
	*t = (*t)[:len(*t)-1]
	k.index = -1
	return k
}
