# Everything here does its own set-up: what the machine lacks is installed by .ci/setup.

# The Go that set-up fetched, if it had to, else the machine's.
export PATH := $(CURDIR)/.tools/go/bin:$(PATH):/usr/local/go/bin
GO   ?= go
SUDO ?= $(if $(filter 0,$(shell id -u)),,sudo)
# Debian's Python, which has Debian's Mininet.
PYTHON ?= /usr/bin/python3

STATICCHECK ?= $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s

.PHONY: all build demo demo-hybrid test test-unit test-e2e soak bench check fuzz lint setup clean

all: build

setup:
	@.ci/setup

build: setup
	$(GO) build -o bin/fairlead ./cmd/fairlead

# DEMO passes options on, as in `make demo DEMO=--help`.
demo: build
	@$(SUDO) $(PYTHON) mininet/demo.py --fairlead bin/fairlead $(DEMO)

# A campus of six legacy switches becomes SDN in waves, under traffic, and legacy again: docs/migration.md.
demo-hybrid: build
	@$(SUDO) env FAIRLEAD_BIN=$(CURDIR)/bin/fairlead $(PYTHON) mininet/hybrid/demo.py $(DEMO)

test: test-unit test-e2e

test-unit: setup
	$(GO) test -race ./...

# The test binary is built as whoever calls, and run as root. Its tests wait more than they work, so more of them run
# beside each other than there are processors. E2E passes options on, as in `make test-e2e E2E=-test.run=Ring`.
test-e2e: build
	$(GO) test -c -tags e2e -o bin/e2e.test ./test/e2e
	$(SUDO) env FAIRLEAD_BIN=$(CURDIR)/bin/fairlead bin/e2e.test -test.v -test.parallel=4 -test.timeout=20m $(E2E)

# The tests of docs/reliability.md with their larger numbers: an hour or more. SOAK picks some, as in `make soak SOAK=U02`.
soak: build
	$(GO) test -tags soak -timeout 2h -run '$(SOAK)' -v ./test/reliability ./test/scale
	$(GO) test -c -tags "e2e soak" -o bin/soak.test ./test/e2e
	$(SUDO) env FAIRLEAD_BIN=$(CURDIR)/bin/fairlead bin/soak.test -test.v -test.timeout=3h -test.run='$(or $(SOAK),Test[A-Z][0-9][0-9])'

# Against peers, in the same run: the southbound, then packets through a VIP.
bench: build
	$(GO) run ./test/bench -fairlead bin/fairlead $(BENCH)
	$(GO) test -c -tags e2e -o bin/e2e.test ./test/e2e
	$(SUDO) env FAIRLEAD_BIN=$(CURDIR)/bin/fairlead bin/e2e.test -test.run='^$$' -test.bench=DataPlane -test.benchtime=1x

check: lint test-unit
	$(MAKE) fuzz FUZZTIME=5s

lint: setup
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then echo "gofmt: $$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags e2e ./test/...
	$(GO) vet -tags "e2e soak" ./test/...
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags e2e ./test/...

# Each fuzz target for FUZZTIME.
fuzz: setup
	@set -e; for package in $$(git ls-files -co --exclude-standard '*_test.go' | xargs grep -l '^func Fuzz' | xargs -r -n1 dirname | sort -u); do \
		for target in $$(grep -h -o '^func Fuzz[A-Za-z0-9_]*' $$package/*_test.go | cut -d' ' -f2); do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$package; \
		done; \
	done

clean:
	rm -rf bin
