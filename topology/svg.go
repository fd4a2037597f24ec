package topology

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// vipColours tell VIPs apart; they repeat when there are more.
var vipColours = [...]string{"#d9480f", "#2b8a3e", "#7048e8", "#c2255c", "#1864ab", "#a16207", "#0b7285", "#5f3dc4"}

const svgStyle = `
text{font:12px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2937}
.title{font-size:16px;font-weight:600}.dim{fill:#6b7280;font-size:11px}
.card{fill:#f3f6fc;stroke:#3b5b92;stroke-width:1.5}.name{font-weight:600;text-anchor:middle}
.dpid{font:10px ui-monospace,"DejaVu Sans Mono",monospace;fill:#6b7280;text-anchor:middle}
.chip{fill:#fff;stroke:#cbd5e1}.addr{font:11px ui-monospace,"DejaVu Sans Mono",monospace}
.port{font-size:10px;fill:#64748b;text-anchor:middle;paint-order:stroke;stroke:#fff;stroke-width:3px}
.host{stroke:#cbd5e1;fill:none}.link{fill:none;stroke-linecap:round}
.tree{stroke:#3b5b92;stroke-width:3}.up{stroke:#94a3b8;stroke-width:2}
.half{stroke:#d97706;stroke-width:2;stroke-dasharray:2 5}.shared{stroke:#9ca3af;stroke-width:2;stroke-dasharray:7 5}
.loop{stroke:#dc2626;stroke-width:2;stroke-dasharray:4 3}.trusted{stroke-dasharray:12 5}
.vip{fill:#fff;stroke-width:1.5}.segment{fill:#fff;stroke:#868e96;stroke-dasharray:4 3}
`

// lineClass returns how a link is drawn: a class of svgStyle, and what the
// legend calls it.
func (l ViewLink) lineClass() (class, legend string) {
	switch {
	case l.State == StateUp && l.Trusted:
		return "up trusted", "link trusted from before a restart"
	case l.State == StateUp && l.Tree:
		return "tree", "link in the broadcast tree"
	case l.State == StateUp:
		return "up", "other link"
	case l.State == StateShared:
		return "shared", "shared with another link: not used"
	case l.State == StateLoop:
		return "loop", "loop: not used"
	}
	return "half", "heard one way: not used"
}

// SVG returns the view as a picture: switches as cards with the hosts behind
// them, at most eight each; the links with the port numbers at their ends, and
// which of them broadcasts take; legacy segments as cards with a dashed edge; VIPs on
// top, their members marked with their colour. It is a whole document that needs nothing else, and the same view
// gives the same bytes.
func (v View) SVG() string {
	segments := len(v.Switches)
	v = v.withSegments()
	d := drawing{View: v, segments: segments, index: map[DPID]int{}, hosts: make([][]Host, len(v.Switches)), members: v.members()}
	for i, sw := range v.Switches {
		d.index[sw.DPID] = i
	}
	for _, h := range v.Hosts {
		if i, ok := d.index[h.Place.DPID]; ok {
			d.hosts[i] = append(d.hosts[i], h)
		}
	}
	for _, hs := range d.hosts {
		slices.SortStableFunc(hs, func(a, b Host) int { return a.Place.Compare(b.Place) })
	}
	d.place()
	d.draw()
	return d.b.String()
}

// withSegments returns the view with a switch for each segment, behind all others, and a
// link for each of its ports.
func (v View) withSegments() View {
	v.Switches, v.Links = slices.Clip(v.Switches), slices.Clip(v.Links)
	for i, s := range v.Segments {
		id := DPID(math.MaxUint64) - DPID(i)
		v.Switches = append(v.Switches, ViewSwitch{Name: "legacy", Switch: Switch{DPID: id}, Root: id})
		for _, p := range s.Ports {
			l := ViewLink{Link: Link{A: p.Place, B: Place{DPID: id}, State: StateUp}, Tree: true}
			if p.Role == RoleBlocked {
				l.State = StateShared
			}
			v.Links = append(v.Links, l)
		}
	}
	return v
}

// drawing is an SVG document in the making.
type drawing struct {
	View
	b             strings.Builder
	segments      int // from here on, switches stand for segments
	index         map[DPID]int
	hosts         [][]Host // by switch
	members       map[HostKey][]int
	cards         []card
	width, height float64
}

// printf appends markup. Strings from outside go through text first.
func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(&d.b, format, args...) }

// text escapes s for XML and cuts it to at most limit characters. What XML
// cannot hold is replaced.
func text(s string, limit int) string {
	if utf8.RuneCountInString(s) > limit {
		s = string([]rune(s)[:limit-1]) + "…"
	}
	var b strings.Builder
	// A strings.Builder does not fail.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// px formats a length to a tenth of a pixel.
func px(f float64) string {
	s := strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	if s == "-0" {
		return "0"
	}
	return s
}

// place lays out the switches.
func (d *drawing) place() {
	near := make([][]int, len(d.Switches))
	rows := make([]int, len(d.Switches))
	for _, l := range d.Links {
		a, okA := d.index[l.A.DPID]
		b, okB := d.index[l.B.DPID]
		if !okA || !okB || l.State != StateUp {
			continue
		}
		if !slices.Contains(near[a], b) {
			near[a] = append(near[a], b)
			near[b] = append(near[b], a)
		}
	}
	joined := newSets[int]()
	for i, others := range near {
		for _, j := range others {
			joined.join(i, j)
		}
	}
	var groups [][]int
	group := map[int]int{}
	for i := range d.Switches {
		slices.Sort(near[i])
		rows[i] = len(d.hosts[i])
		if rows[i] > chipsPerCard {
			rows[i] = chipsPerCard // the last one says how many more there are
		}
		k, ok := group[joined.find(i)]
		if !ok {
			k = len(groups)
			group[joined.find(i)] = k
			groups = append(groups, nil)
		}
		groups[k] = append(groups[k], i)
	}
	d.cards, d.width, d.height = layout(near, rows, groups)
}

const margin = 28.0

func (d *drawing) draw() {
	var body, head strings.Builder
	width := math.Max(d.width+2*margin, 560)

	// The head first: how tall it is depends on how the VIPs wrap.
	d.b.Reset()
	title := cmp.Or(d.title, "Topology")
	d.printf(`<text class="title" x="%s" y="34">%s</text>`, px(margin), text(title, 60))
	d.printf(`<text class="dim" x="%s" y="34">%s</text>`+"\n", px(margin+10.5*float64(len(title))), text(d.summary(), 200))
	y := d.drawVIPs(width, 52)
	head.WriteString(d.b.String())

	dx := (width - d.width) / 2
	for i := range d.cards {
		d.cards[i].x += dx
		d.cards[i].y += y + 30
	}
	d.b.Reset()
	d.drawLinks()
	for i := range d.cards {
		d.drawCard(i)
	}
	y += d.height + 58
	y = d.drawLegend(width, y)
	body.WriteString(d.b.String())

	d.b.Reset()
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]s" height="%[2]s" viewBox="0 0 %[1]s %[2]s">`+"\n", px(width), px(y))
	d.printf("<style>%s</style>\n", svgStyle)
	d.printf(`<rect width="100%%" height="100%%" fill="#fff"/>` + "\n")
	d.b.WriteString(head.String())
	d.b.WriteString(body.String())
	d.b.WriteString("</svg>\n")
}

func (d *drawing) summary() string {
	count := func(n int, one string) string {
		if n == 1 {
			return "1 " + one
		}
		if strings.HasSuffix(one, "ch") {
			return strconv.Itoa(n) + " " + one + "es"
		}
		return strconv.Itoa(n) + " " + one + "s"
	}
	up := 0
	for _, l := range d.Links {
		if l.State == StateUp && d.index[l.B.DPID] < d.segments {
			up++
		}
	}
	return strings.Join([]string{count(d.segments, "switch"), count(up, "link"), count(len(d.Hosts), "host"), count(len(d.VIPs), "VIP")}, " · ")
}

// drawVIPs draws the VIPs in lines from y on and returns where the next thing
// may begin.
func (d *drawing) drawVIPs(width, y float64) float64 {
	if len(d.VIPs) == 0 {
		return y
	}
	x := margin
	for i, vip := range d.VIPs {
		label := vip.Name + "  " + vip.Address.String()
		w := 34 + 7.2*float64(min(utf8.RuneCountInString(label), 48))
		if x > margin && x+w > width-margin {
			x, y = margin, y+30
		}
		colour := vipColours[i%len(vipColours)]
		d.printf(`<g><title>%s</title><rect class="vip" x="%s" y="%s" width="%s" height="22" rx="11" stroke="%s"/>`,
			text(fmt.Sprintf("%s %v members %v", vip.Name, vip.Address, vip.Members), 2000), px(x), px(y), px(w), colour)
		d.printf(`<circle cx="%s" cy="%s" r="4.5" fill="%s"/><text x="%s" y="%s">%s</text></g>`+"\n",
			px(x+13), px(y+11), colour, px(x+24), px(y+15), text(label, 48))
		x += w + 10
	}
	return y + 40
}

func (d *drawing) drawLinks() {
	parallel := map[[2]int]int{} // links between two cards so far
	total := map[[2]int]int{}
	for _, l := range d.Links {
		total[d.pair(l)]++
	}
	for _, l := range d.Links {
		key := d.pair(l)
		if key[0] < 0 || key[1] < 0 {
			continue
		}
		k := parallel[key]
		parallel[key]++
		class, _ := l.lineClass()
		title := text(l.Link.String(), 200)
		a, b := d.cards[key[0]], d.cards[key[1]]
		if key[0] == key[1] {
			d.drawLoop(a, k, l, class, title)
			continue
		}
		dx, dy := b.x-a.x, b.y-a.y
		length := math.Max(1, math.Hypot(dx, dy))
		nx, ny := -dy/length, dx/length
		off := (float64(k) - float64(total[key]-1)/2) * 18
		ax, ay, bx, by := a.x+nx*off, a.y+ny*off, b.x+nx*off, b.y+ny*off
		// The control point of a curve: in the middle for a straight line, to
		// the side where other cards are in the way.
		cx, cy := (ax+bx)/2, (ay+by)/2
		if d.blocked(key, ax, ay, bx, by) {
			bend := (math.Abs(nx)*cardW+math.Abs(ny)*cardH)*1.6 + length/10
			if ny > 0 || ny == 0 && nx < 0 {
				bend = -bend // up and to the right, whichever end is first
			}
			cx, cy = cx+nx*bend, cy+ny*bend
		}
		d.printf(`<path class="link %s" d="M%s %sQ%s %s %s %s"><title>%s</title></path>`+"\n",
			class, px(ax), px(ay), px(cx), px(cy), px(bx), px(by), title)
		d.drawPort(a, ax, ay, cx, cy, l.A.Port)
		d.drawPort(b, bx, by, cx, cy, l.B.Port)
	}
}

// blocked reports whether a straight line meets a card other than its own two.
func (d *drawing) blocked(own [2]int, ax, ay, bx, by float64) bool {
	const steps = 24
	for i, c := range d.cards {
		if i == own[0] || i == own[1] {
			continue
		}
		for k := 1; k < steps; k++ {
			t := float64(k) / steps
			if c.contains(ax+(bx-ax)*t, ay+(by-ay)*t) {
				return true
			}
		}
	}
	return false
}

// pair returns the indices of the two ends of a link, -1 for one not drawn.
func (d *drawing) pair(l ViewLink) [2]int {
	p := [2]int{-1, -1}
	if i, ok := d.index[l.A.DPID]; ok {
		p[0] = i
	}
	if i, ok := d.index[l.B.DPID]; ok {
		p[1] = i
	}
	return p
}

// drawPort writes the number of a port where a line that begins at (sx, sy) and
// makes for (tx, ty) leaves its card.
func (d *drawing) drawPort(c card, sx, sy, tx, ty float64, p Port) {
	length := math.Max(1, math.Hypot(tx-sx, ty-sy))
	ux, uy := (tx-sx)/length, (ty-sy)/length
	t := math.Inf(1)
	if ux != 0 {
		t = math.Min(t, (math.Copysign(cardW/2, ux)-(sx-c.x))/ux)
	}
	if uy != 0 {
		t = math.Min(t, (math.Copysign(cardH/2, uy)-(sy-c.y))/uy)
	}
	t += 11
	if p == 0 {
		return // of a segment, or of a bridge whose ports are not known
	}
	d.printf(`<text class="port" x="%s" y="%s">%v</text>`+"\n", px(sx+ux*t), px(sy+uy*t+3.5), p)
}

// drawLoop draws a link that begins and ends on one switch.
func (d *drawing) drawLoop(c card, k int, l ViewLink, class, title string) {
	x, y := c.x+cardW/2-28-float64(k)*34, c.y-cardH/2
	up := -26.0
	if c.side == above {
		y, up = c.y+cardH/2, 26
	}
	d.printf(`<path class="link %s" d="M%s %sc-6 %s 26 %s 20 0"><title>%s</title></path>`+"\n",
		class, px(x), px(y), px(up), px(up), title)
	d.printf(`<text class="port" x="%s" y="%s">%v-%v</text>`+"\n", px(x+10), px(y+up+3), l.A.Port, l.B.Port)
}

func (d *drawing) drawCard(i int) {
	c, sw, hosts := d.cards[i], d.Switches[i], d.hosts[i]
	at := func(k int) (x, y float64) {
		y = cardH/2 + chipGap + chipH/2 + float64(k)*chipStep
		across := (float64(k) - float64(c.rows-1)/2) * chipStep
		switch c.side {
		case above:
			return c.x, c.y - y
		case leftOf:
			return c.x - cardW/2 - 2*chipGap - chipW/2, c.y + across
		case rightOf:
			return c.x + cardW/2 + 2*chipGap + chipW/2, c.y + across
		}
		return c.x, c.y + y
	}
	for k := range c.rows {
		x, y := at(k)
		d.printf(`<path class="host" d="M%s %sL%s %s"/>`, px(c.x), px(c.y), px(x), px(y))
	}
	for k := range c.rows {
		x, y := at(k)
		if k == c.rows-1 && len(hosts) > c.rows {
			d.drawChip(x, y, "", fmt.Sprintf("+ %d more", len(hosts)-c.rows+1), "", nil)
			continue
		}
		h := hosts[k]
		d.drawChip(x, y, h.Place.Port.String(), h.label(), hostTitle(h), d.members[h.Key()])
	}
	if i >= d.segments {
		d.printf(`<g><title>legacy segment</title><rect class="segment" x="%s" y="%s" width="%s" height="%s" rx="16"/><text class="name" x="%s" y="%s">%s</text></g>`+"\n",
			px(c.x-cardW/2), px(c.y-cardH/2), px(cardW), px(cardH), px(c.x), px(c.y+4), text(sw.Name, 18))
		return
	}
	fill := ""
	if m := d.marks[sw.DPID]; m != MarkNone {
		fill = fmt.Sprintf(` style="fill:%s"`, m.colour())
	}
	up := 0
	for _, p := range sw.Ports {
		if p.Up {
			up++
		}
	}
	d.printf(`<g><title>%s</title><rect class="card" x="%s" y="%s" width="%s" height="%s" rx="8"%s/>`,
		text(fmt.Sprintf("%s %v: %d of %d ports up", sw.Name, sw.DPID, up, len(sw.Ports)), 300),
		px(c.x-cardW/2), px(c.y-cardH/2), px(cardW), px(cardH), fill)
	d.printf(`<text class="name" x="%s" y="%s">%s</text><text class="dpid" x="%s" y="%s">%v</text></g>`+"\n",
		px(c.x), px(c.y-3), text(sw.Name, 18), px(c.x), px(c.y+12), sw.DPID)
}

func hostTitle(h Host) string {
	s := fmt.Sprintf("%v at %v", h.Key(), h.Place)
	for _, ip := range h.IPs {
		s += " " + ip.String()
	}
	if h.Pinned {
		s += " (pinned)"
	}
	return s
}

func (d *drawing) drawChip(x, y float64, port, label, title string, vips []int) {
	d.printf(`<g>`)
	if title != "" {
		d.printf(`<title>%s</title>`, text(title, 400))
	}
	d.printf(`<rect class="chip" x="%s" y="%s" width="%s" height="%s" rx="9"/>`, px(x-chipW/2), px(y-chipH/2), px(chipW), px(chipH))
	if port != "" {
		d.printf(`<text class="dim" x="%s" y="%s">%s</text>`, px(x-chipW/2+8), px(y+4), text(port, 6))
	}
	d.printf(`<text class="addr" x="%s" y="%s">%s</text>`, px(x-chipW/2+27), px(y+4), text(label, 17-min(len(vips), 3)))
	for k, i := range vips[:min(len(vips), 3)] {
		d.printf(`<circle cx="%s" cy="%s" r="4" fill="%s"/>`, px(x+chipW/2-10-float64(k)*10), px(y), vipColours[i%len(vipColours)])
	}
	d.printf("</g>\n")
}

// drawLegend explains the kinds of lines there are and returns where the
// picture ends.
func (d *drawing) drawLegend(width, y float64) float64 {
	x := margin
	seen := map[string]bool{}
	for _, l := range d.Links {
		class, legend := l.lineClass()
		if seen[class] {
			continue
		}
		seen[class] = true
		w := 50 + 6.4*float64(len(legend))
		if x > margin && x+w > width-margin {
			x, y = margin, y+20
		}
		d.printf(`<path class="link %s" d="M%s %sh28"/><text class="dim" x="%s" y="%s">%s</text>`+"\n",
			class, px(x), px(y), px(x+36), px(y+4), legend)
		x += w
	}
	return y + 24
}
