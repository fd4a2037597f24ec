package topology

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Notes are what a picture shows beside the graph. All of it is optional.
type Notes struct {
	// Switches gives the names of switches. Without one, a switch is called
	// like its local port, as Open vSwitch names it, or by its DPID.
	Switches map[DPID]string
	VIPs     []VIPNote
}

// VIPNote is a virtual IP and where its traffic goes.
type VIPNote struct {
	Name    string       `json:"name"`
	Address netip.Addr   `json:"address"`
	VLAN    uint16       `json:"vlan"`
	Members []netip.Addr `json:"members"`
	Replies Replies      `json:"-"` // of the members
}

// Replies says which way the replies of a VIP's members have to take.
type Replies uint8

// The ways of replies.
const (
	// RepliesCross: they must cross a switch that acts on VIPs, any.
	RepliesCross Replies = iota
	// RepliesFree: any way is right.
	RepliesFree
	// RepliesToVIP: they come to the VIP, as requests do.
	RepliesToVIP
	// RepliesReturn: they must cross the switch that requests crossed first.
	RepliesReturn
)

// View is a snapshot as a document: encode it as JSON, or draw it with DOT or
// SVG. Everything in it is in order, and no list is nil.
type View struct {
	Version  uint64       `json:"version"`
	Switches []ViewSwitch `json:"switches"`
	Links    []ViewLink   `json:"links"`
	Segments []Segment    `json:"segments"`
	Hosts    []Host       `json:"hosts"`
	VIPs     []VIPNote    `json:"vips"`

	title string        // of a picture; empty: what it is
	marks map[DPID]Mark // see CoverageView
}

// ViewSwitch is a switch with its name.
type ViewSwitch struct {
	Name string `json:"name"`
	Switch
	// Root is the lowest DPID of its component.
	Root DPID `json:"root"`
}

// ViewLink is a link, and whether broadcasts take it.
type ViewLink struct {
	Link
	Tree bool `json:"tree"`
}

// View returns the snapshot as a document.
func (s *Snapshot) View(n Notes) View {
	v := View{
		Version:  s.Version(),
		Switches: make([]ViewSwitch, 0, len(s.Switches())),
		Links:    make([]ViewLink, 0, len(s.Links())),
		Segments: append([]Segment{}, s.Segments()...),
		Hosts:    s.Hosts(),
		VIPs:     make([]VIPNote, 0, len(n.VIPs)),
	}
	tree := s.Tree()
	for _, sw := range s.Switches() {
		root, _ := tree.Root(sw.DPID)
		v.Switches = append(v.Switches, ViewSwitch{Name: switchName(sw, n), Switch: sw, Root: root})
	}
	for _, l := range s.Links() {
		v.Links = append(v.Links, ViewLink{Link: l, Tree: l.State == StateUp && tree.Contains(l.A)})
	}
	for _, vip := range n.VIPs {
		if vip.Members == nil {
			vip.Members = []netip.Addr{}
		}
		v.VIPs = append(v.VIPs, vip)
	}
	slices.SortStableFunc(v.VIPs, func(a, b VIPNote) int { return strings.Compare(a.Name, b.Name) })
	return v
}

func switchName(sw Switch, n Notes) string {
	if name := n.Switches[sw.DPID]; name != "" {
		return name
	}
	for _, p := range sw.Ports {
		if p.Port == PortLocal && p.Name != "" {
			return p.Name
		}
	}
	return sw.DPID.short()
}

// short returns the DPID without leading zeros.
func (d DPID) short() string { return fmt.Sprintf("%x", uint64(d)) }

// label is what a picture calls a host.
func (h Host) label() string {
	if len(h.IPs) == 0 {
		return h.MAC.String()
	}
	// IPv4 sorts before IPv6, and the lowest address is as good a name as any.
	return h.IPs[0].String()
}

// members returns, by host, the indices of the VIPs it is a member of.
func (v View) members() map[HostKey][]int {
	byIP := map[ipKey]HostKey{}
	for _, h := range v.Hosts {
		for _, ip := range h.IPs {
			byIP[ipKey{ip, h.VLAN}] = h.Key()
		}
	}
	m := map[HostKey][]int{}
	for i, vip := range v.VIPs {
		for _, ip := range vip.Members {
			if key, ok := byIP[ipKey{ip, vip.VLAN}]; ok && !slices.Contains(m[key], i) {
				m[key] = append(m[key], i)
			}
		}
	}
	return m
}

// DOT returns the view as an undirected graph in the DOT language of Graphviz.
func (v View) DOT() string {
	var b strings.Builder
	b.WriteString("graph fairlead {\n" +
		"  graph [overlap=false, splines=true];\n" +
		"  node [fontname=\"Helvetica\", fontsize=10];\n" +
		"  edge [fontname=\"Helvetica\", fontsize=8];\n")
	known := map[DPID]bool{}
	if v.title != "" {
		fmt.Fprintf(&b, "  label=%s;\n", quoteDOT(v.title))
	}
	for _, sw := range v.Switches {
		known[sw.DPID] = true
		fmt.Fprintf(&b, "  %s [shape=box, style=\"rounded,filled\", fillcolor=\"%s\", label=%s];\n",
			quoteDOT(sw.DPID.String()), v.marks[sw.DPID].colour(), quoteDOT(sw.Name+"\n"+sw.DPID.String()))
	}
	for _, l := range v.Links {
		if !known[l.A.DPID] || !known[l.B.DPID] {
			continue
		}
		style := "style=dashed, color=\"#c77700\""
		switch {
		case l.State == StateUp && l.Tree:
			style = "style=solid, penwidth=2"
		case l.State == StateUp:
			style = "style=solid, color=\"#7a869a\""
		case l.State == StateLoop:
			style = "style=dashed, color=\"#c62828\""
		}
		fmt.Fprintf(&b, "  %s -- %s [taillabel=%s, headlabel=%s, tooltip=%s, %s];\n",
			quoteDOT(l.A.DPID.String()), quoteDOT(l.B.DPID.String()),
			quoteDOT(l.A.Port.String()), quoteDOT(l.B.Port.String()), quoteDOT(l.Link.String()), style)
	}
	for _, s := range v.Segments {
		id := quoteDOT("segment " + s.ID().String())
		fmt.Fprintf(&b, "  %s [shape=hexagon, label=\"legacy\"];\n", id)
		for _, p := range s.Ports {
			style := "style=solid"
			if p.Role == RoleBlocked {
				style = "style=dotted, color=\"#c62828\""
			}
			fmt.Fprintf(&b, "  %s -- %s [taillabel=%s, tooltip=%s, %s];\n", quoteDOT(p.DPID.String()), id,
				quoteDOT(p.Port.String()), quoteDOT(p.Role.String()+" "+p.Reason), style)
		}
	}
	for _, h := range v.Hosts {
		if !known[h.Place.DPID] {
			continue
		}
		id := quoteDOT("host " + h.Key().String())
		fmt.Fprintf(&b, "  %s [shape=ellipse, label=%s];\n", id, quoteDOT(h.label()+"\n"+h.Key().String()))
		fmt.Fprintf(&b, "  %s -- %s [taillabel=%s, color=\"#b0b8c4\"];\n",
			quoteDOT(h.Place.DPID.String()), id, quoteDOT(h.Place.Port.String()))
	}
	for _, vip := range v.VIPs {
		fmt.Fprintf(&b, "  %s [shape=component, style=filled, fillcolor=\"#fff3d6\", label=%s];\n",
			quoteDOT("vip "+vip.Name), quoteDOT(vip.Name+"\n"+vip.Address.String()))
	}
	members := v.members()
	for _, h := range v.Hosts {
		if !known[h.Place.DPID] {
			continue
		}
		for _, i := range members[h.Key()] {
			fmt.Fprintf(&b, "  %s -- %s [style=dotted, color=\"#c77700\"];\n",
				quoteDOT("vip "+v.VIPs[i].Name), quoteDOT("host "+h.Key().String()))
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// colour is what a switch with the mark is filled with.
func (m Mark) colour() string {
	return [...]string{MarkNone: "#e8eef9", MarkActive: "#b2f2bb", MarkStep: "#d8f5a2", MarkLegacy: "#f1f3f5"}[m]
}

// quoteDOT returns s as a quoted string of the DOT language, where a backslash
// begins an escape. Names come from switches: what cannot be printed is replaced.
func quoteDOT(s string) string {
	s = strings.Map(func(r rune) rune {
		if r != '\n' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
