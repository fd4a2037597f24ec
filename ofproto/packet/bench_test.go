package packet

import "testing"

func BenchmarkDecode(b *testing.B) {
	for _, tt := range golden {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(tt.frame)))
			for b.Loop() {
				if _, err := Decode(tt.frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendTCPFrame(b *testing.B) {
	fl := flow(a4, b4, 1, 2)
	payload := make([]byte, 1400)
	buf := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendTCPFrame(buf[:0], fl, TCP{Flags: TCPAck}, payload)
	}
}
