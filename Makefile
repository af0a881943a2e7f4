# What people and CI type. `make help` lists it.

PREFIX  ?= /usr/local
DESTDIR ?=
SBIN    := $(DESTDIR)/sbin
BIN     := $(DESTDIR)$(PREFIX)/bin
DAEMONS := $(DESTDIR)$(PREFIX)/sbin
MAN     := $(DESTDIR)$(PREFIX)/share/man
UNITS   := $(DESTDIR)/lib/systemd/system
ETC     := $(DESTDIR)/etc/rfs
OUT     := $(or $(CARGO_TARGET_DIR),target)/release
DEMO    ?= /var/tmp/rfs-demo
CARGO   ?= cargo

.PHONY: help
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make demo        install what is missing, build, start a cluster, mount it, show that it works; leaves it running
.PHONY: demo
demo: prerequisites build
	deploy/demo.sh "$(OUT)" "$(DEMO)"

## make demo-down   end the demo's cluster and remove it
.PHONY: demo-down
demo-down:
	"$(OUT)/rfs" quickstart --stop --purge --dir "$(DEMO)"

## make build       build mfs-master, chunkserver, rfs and mount.rfs into target/release
.PHONY: build
build: linker
	$(CARGO) build --release --locked --bins
	ln -sf mount-rfs "$(OUT)/mount.rfs"

## make test        unit tests to whole clusters with real mounts, 30 power cuts, every fault once (needs root, /dev/fuse, loop devices)
.PHONY: test
test: prerequisites test-tools build
	$(CARGO) nextest run --release --locked --workspace

## make torture     500 rounds of power cuts and kills, then every fault under every load (RFS_POWER_ROUNDS=, RFS_CASE=, RFS_TEST_SEED=)
.PHONY: torture
torture: prerequisites test-tools build
	RFS_POWER_ROUNDS=$(or $(RFS_POWER_ROUNDS),500) \
	$(CARGO) test --release --locked -p rfs-tests --test power_cut -- --nocapture nothing_that_was_promised_is_lost
	RFS_MATRIX=all $(CARGO) test --release --locked -p rfs-tests --test fault_matrix -- --nocapture
	RFS_LINEAR_SECONDS=120 $(CARGO) test --release --locked -p rfs-tests --test linearizable -- --nocapture three_mounts
	$(CARGO) test --release --locked -p rfs-tests --test full -- --nocapture --include-ignored

## make lab-small   the storage network in emulated guests: one storage machine, two chunk machines; LAB_TESTS= for some tests
.PHONY: lab-small
lab-small: build
	LAB_PROGRAMS="$(or $(LAB_PROGRAMS),$(abspath $(OUT)))" deploy/lab/lab.sh small $(LAB_TESTS)

## make lab         the same with sto1, sto2, chunk1, chunk2, chunk3 (docs/storage-network.md)
.PHONY: lab
lab: build
	LAB_PROGRAMS="$(or $(LAB_PROGRAMS),$(abspath $(OUT)))" deploy/lab/lab.sh full $(LAB_TESTS)

.PHONY: linker
linker:
	@command -v ld.lld >/dev/null || deploy/prerequisites.sh build

.PHONY: prerequisites
prerequisites:
	deploy/prerequisites.sh run

.PHONY: test-tools
test-tools:
	deploy/prerequisites.sh test

## make verify      formatting, lints, tests, documentation, dependencies; changes nothing
.PHONY: verify
verify: lint test
	$(CARGO) test --release --locked --workspace --doc
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --release --locked --workspace --no-deps --document-private-items
	deploy/prerequisites.sh verify
	$(CARGO) deny --locked check
	$(CARGO) machete

.PHONY: lint
lint: build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	"$(OUT)/xtask" tidy

## make fix         format and mend what clippy can mend
.PHONY: fix
fix:
	$(CARGO) clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

## make bench       five rounds of all workloads beside MooseFS (installed for it) and local XFS: hours; BENCH="--rounds 1 --only streams" for less
.PHONY: bench
bench: build
	deploy/prerequisites.sh bench
	"$(OUT)/rfs-bench" --bin-dir "$(OUT)" --csv "$(OUT)/bench.csv" --page "$(OUT)/bench.html" $(BENCH)
	@echo "Every round: $(OUT)/bench.csv; plots: $(OUT)/bench.html"

## make install     put programs, manual pages and service units where they belong (DESTDIR=, PREFIX=/usr/local)
.PHONY: install
install: build
	install -d "$(BIN)" "$(DAEMONS)" "$(SBIN)" "$(MAN)/man8" "$(MAN)/man1" "$(UNITS)" "$(ETC)"
	install -m 755 "$(OUT)/mfs-master" "$(OUT)/chunkserver" "$(DAEMONS)/"
	install -m 755 "$(OUT)/rfs" "$(BIN)/"
	install -m 755 "$(OUT)/mount-rfs" "$(SBIN)/mount.rfs"
	ln -sf mount.rfs "$(SBIN)/mount.fuse.rfs"
	"$(OUT)/xtask" man "$(MAN)"
	sed 's,@SBIN@,$(PREFIX)/sbin,' deploy/systemd/mfs-master.service > "$(UNITS)/mfs-master.service"
	sed 's,@SBIN@,$(PREFIX)/sbin,' deploy/systemd/chunkserver.service > "$(UNITS)/chunkserver.service"
	test -e "$(ETC)/mfs-master.toml" || install -m 644 deploy/config/mfs-master.toml "$(ETC)/"
	test -e "$(ETC)/chunkserver.toml" || install -m 644 deploy/config/chunkserver.toml "$(ETC)/"
