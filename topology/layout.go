package topology

import (
	"math"
	"slices"
)

// Sizes of a picture, in pixels.
const (
	cardW, cardH  = 150.0, 42.0
	chipW, chipH  = 150.0, 18.0
	chipStep      = chipH + 3
	chipGap       = 10.0 // between a card and its chips
	cardGap       = 66.0 // between cards side by side
	layerGap      = 84.0 // between layers
	componentGap  = 56.0
	pictureWidth  = 1500.0 // components wrap beyond
	chipsPerCard  = 8
	cardsPerLayer = 12
	circleCards   = 16
)

// side is where the hosts of a card are.
type side uint8

const (
	below side = iota
	above
	leftOf
	rightOf
)

// card is a switch in a picture; x and y are its centre.
type card struct {
	x, y float64
	side side
	rows int // chips
}

// stack returns the height that the chips of a card take beyond it.
func (c card) stack() float64 {
	if c.rows == 0 {
		return 0
	}
	return chipGap + float64(c.rows)*chipStep
}

// box is a rectangle.
type box struct{ x0, y0, x1, y1 float64 }

func (b box) join(o box) box {
	return box{math.Min(b.x0, o.x0), math.Min(b.y0, o.y0), math.Max(b.x1, o.x1), math.Max(b.y1, o.y1)}
}

// bounds returns the rectangle of a card and its chips.
func (c card) bounds() box {
	b := box{c.x - cardW/2, c.y - cardH/2, c.x + cardW/2, c.y + cardH/2}
	half := float64(c.rows) * chipStep / 2
	switch {
	case c.rows == 0:
	case c.side == below:
		b.y1 += c.stack()
	case c.side == above:
		b.y0 -= c.stack()
	case c.side == leftOf:
		b = b.join(box{b.x0 - 2*chipGap - chipW, c.y - half, b.x0, c.y + half})
	case c.side == rightOf:
		b = b.join(box{b.x1, c.y - half, b.x1 + 2*chipGap + chipW, c.y + half})
	}
	return b
}

// contains reports whether a point is on the card or next to it.
func (c card) contains(x, y float64) bool {
	return math.Abs(x-c.x) < cardW/2+6 && math.Abs(y-c.y) < cardH/2+6
}

// layout places the switches of a view and returns their cards, by index, and
// the size of the whole. near holds the neighbours of each switch, rows the
// chips of each, groups the switches of each component.
func layout(near [][]int, rows []int, groups [][]int) (cards []card, width, height float64) {
	cards = make([]card, len(near))
	for i := range cards {
		cards[i].rows = rows[i]
	}
	slices.SortStableFunc(groups, func(a, b []int) int { return len(b) - len(a) })
	var x, y, line float64
	for _, group := range groups {
		layoutComponent(cards, near, group)
		b := cards[group[0]].bounds()
		for _, i := range group {
			b = b.join(cards[i].bounds())
		}
		w, h := b.x1-b.x0, b.y1-b.y0
		if x > 0 && x+w > pictureWidth {
			x, y, line = 0, y+line+componentGap, 0
		}
		for _, i := range group {
			cards[i].x += x - b.x0
			cards[i].y += y - b.y0
		}
		width = math.Max(width, x+w)
		x += w + componentGap
		line = math.Max(line, h)
		height = math.Max(height, y+h)
	}
	return cards, width, height
}

// layoutComponent chooses how to place one component: a line as a line, a ring
// on a circle, a tree or tiers above the hosts in layers; anything else on a
// circle while it is small.
func layoutComponent(cards []card, near [][]int, group []int) {
	degrees, most, least, end := 0, 0, math.MaxInt, group[0]
	for _, i := range group {
		n := len(near[i])
		degrees += n
		most = max(most, n)
		if n < least {
			least, end = n, i
		}
	}
	tree := degrees == 2*(len(group)-1)
	switch {
	case tree && most <= 2:
		layoutLine(cards, walk(near, end))
		return
	case most == 2 && least == 2:
		layoutCircle(cards, walk(near, group[0]))
		return
	}
	var hosts []int
	for _, i := range group {
		if cards[i].rows > 0 {
			hosts = append(hosts, i)
		}
	}
	if len(hosts) > 0 && len(hosts) < len(group) {
		depth := depths(near, hosts)
		flat, top := 0, 0
		for _, i := range group {
			top = max(top, depth[i])
			for _, j := range near[i] {
				if depth[i] == depth[j] {
					flat++
				}
			}
		}
		if tree || flat*4 <= degrees {
			for _, i := range group {
				depth[i] = top - depth[i]
			}
			layoutLayers(cards, near, group, depth)
			return
		}
	}
	if tree || len(group) > circleCards {
		layoutLayers(cards, near, group, depths(near, []int{centre(near, group)}))
		return
	}
	layoutCircle(cards, walk(near, group[0]))
}

// depths returns the distance of every switch from the nearest of some.
func depths(near [][]int, from []int) []int {
	d := make([]int, len(near))
	for i := range d {
		d[i] = -1
	}
	queue := slices.Clone(from)
	for _, i := range from {
		d[i] = 0
	}
	for k := 0; k < len(queue); k++ {
		for _, j := range near[queue[k]] {
			if d[j] < 0 {
				d[j] = d[queue[k]] + 1
				queue = append(queue, j)
			}
		}
	}
	return d
}

// centre returns the first switch of a component from which the others are nearest.
func centre(near [][]int, group []int) int {
	best, reach := group[0], math.MaxInt
	for _, i := range group {
		d := depths(near, []int{i})
		far := 0
		for _, j := range group {
			far = max(far, d[j])
		}
		if far < reach {
			best, reach = i, far
		}
	}
	return best
}

// layoutLayers places switches in rows by depth, each row ordered by where its
// neighbours in the rows beside it are.
func layoutLayers(cards []card, near [][]int, group []int, depth []int) {
	var layers [][]int
	for _, i := range group {
		for depth[i] >= len(layers) {
			layers = append(layers, nil)
		}
		layers[depth[i]] = append(layers[depth[i]], i)
	}
	// Hosts are where links are not: above the first layer, below the last.
	for _, i := range group {
		switch depth[i] {
		case len(layers) - 1:
			cards[i].side = below
		case 0:
			cards[i].side = above
		default:
			cards[i].side = rightOf
		}
	}
	place := func(layer []int) { placeRow(cards, layer) }
	order := func(layer []int, other int) {
		mean := map[int]float64{}
		for _, i := range layer {
			mean[i] = cards[i].x
			sum, n := 0.0, 0
			for _, j := range near[i] {
				if depth[j] == other {
					sum += cards[j].x
					n++
				}
			}
			if n > 0 {
				mean[i] = math.Round(sum/float64(n)*8) / 8
			}
		}
		slices.SortStableFunc(layer, func(a, b int) int {
			switch {
			case mean[a] < mean[b]:
				return -1
			case mean[a] > mean[b]:
				return 1
			}
			return 0
		})
		place(layer)
	}
	for _, layer := range layers {
		place(layer)
	}
	for range 4 {
		for d := 1; d < len(layers); d++ {
			order(layers[d], d-1)
		}
		for d := len(layers) - 2; d >= 0; d-- {
			order(layers[d], d+1)
		}
	}
	y := 0.0
	for _, layer := range layers {
		for row := range slices.Chunk(layer, cardsPerLayer) {
			place(row)
			y = stackRow(cards, row, y)
		}
	}
}

// layoutLine places switches side by side.
func layoutLine(cards []card, order []int) {
	y := 0.0
	for row := range slices.Chunk(order, cardsPerLayer) {
		placeRow(cards, row)
		y = stackRow(cards, row, y)
	}
}

// placeRow places cards side by side around x = 0.
func placeRow(cards []card, row []int) {
	x := 0.0
	for _, i := range row {
		cards[i].x = 0
		b := cards[i].bounds()
		cards[i].x = x - b.x0
		x += b.x1 - b.x0 + cardGap
	}
	for _, i := range row {
		cards[i].x -= (x - cardGap) / 2
	}
}

// stackRow places a row below y and returns where the next may begin.
func stackRow(cards []card, row []int, y float64) float64 {
	var up, down float64
	for _, i := range row {
		cards[i].y = 0
		b := cards[i].bounds()
		up, down = math.Max(up, -b.y0), math.Max(down, b.y1)
	}
	for _, i := range row {
		cards[i].y = y + up
	}
	return y + up + down + layerGap
}

// walk returns the switches of a component in an order that goes on to a
// neighbour where it can.
func walk(near [][]int, from int) []int {
	order, seen := []int{from}, map[int]bool{from: true}
	for stack := []int{from}; len(stack) > 0; {
		top := stack[len(stack)-1]
		next := slices.IndexFunc(near[top], func(j int) bool { return !seen[j] })
		if next < 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		j := near[top][next]
		seen[j] = true
		order = append(order, j)
		stack = append(stack, j)
	}
	return order
}

// layoutCircle places switches on a circle.
func layoutCircle(cards []card, order []int) {
	n := float64(len(order))
	need := cardW + cardGap
	for _, i := range order {
		if len(order) > 6 {
			need = math.Max(need, cards[i].stack()+chipGap)
		}
	}
	radius := 0.0
	if len(order) > 1 {
		radius = math.Max(120, need/(2*math.Sin(math.Pi/n)))
	}
	for k, i := range order {
		// Half a step off the top: a ring of four is a square, not a diamond.
		angle := -math.Pi/2 - math.Pi/n + 2*math.Pi*float64(k)/n
		sin, cos := math.Sincos(angle)
		c := &cards[i]
		c.x, c.y = radius*cos, radius*sin
		switch {
		case sin < -0.7:
			c.side = above
		case sin > 0.7 || len(order) == 1:
			c.side = below
		case cos < 0:
			c.side = leftOf
		default:
			c.side = rightOf
		}
	}
}
