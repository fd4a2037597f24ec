package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
)

// put sends a document to Fairlead's REST API, and reads the answer into reply unless
// that is nil.
func (b *bench) put(p *process, path string, doc, reply any) error {
	return b.request(http.MethodPut, p.http+path, doc, reply)
}

// get reads a document of Fairlead's REST API.
func (b *bench) get(p *process, path string, reply any) error {
	return b.request(http.MethodGet, p.http+path, nil, reply)
}

func (b *bench) request(method, url string, doc, reply any) error {
	var body bytes.Buffer
	if doc != nil {
		if err := json.NewEncoder(&body).Encode(doc); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(b.ctx, method, url, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := rest.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	case reply == nil:
		return nil
	}
	return json.Unmarshal(text, reply)
}

// rest keeps as many connections as there are writers.
var rest = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}

// vipDocument is a VIP on port 80 in the form of the REST API.
func vipDocument(vip netip.Addr, members []netip.AddrPort) any {
	type member struct {
		Address netip.Addr `json:"address"`
		Port    uint16     `json:"port"`
	}
	list := []member{}
	for _, m := range members {
		list = append(list, member{m.Addr(), m.Port()})
	}
	return map[string]any{
		"address": vip,
		"listeners": []any{map[string]any{
			"protocol": "tcp", "port": 80, "pool": map[string]any{"members": list},
		}},
	}
}

// vipView is what the bench reads of a VIP.
type vipView struct {
	Status struct {
		Switches []struct {
			State string `json:"state"`
		} `json:"switches"`
	} `json:"status"`
}

// installed counts the switches that hold the VIP.
func (v vipView) installed() int {
	n := 0
	for _, s := range v.Status.Switches {
		if s.State == "installed" {
			n++
		}
	}
	return n
}
