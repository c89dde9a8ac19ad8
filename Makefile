# masterpolicyd: build, try, check and install.
#
#   make build              the release binary
#   sudo make run           serve the example on port 843, unprivileged after the start
#   make check              everything a change has to pass
#   make check-oldest-rust  whether the oldest Rust that Cargo.toml promises builds it
#   make deb, make rpm      a package, in target/package
#   sudo make check-packages  install the packages in a booted container
#   sudo make bench         beside other servers, into docs/benchmarks.md; QUICK=1 is a first impression
#   make fuzz               each fuzz target for FUZZ_SECONDS, 10 minutes unless told otherwise
#   make mutants            which small changes of the code no test notices; ROOM=policy is one room
#   sudo make soak          everything at once, at random, for SOAK_MINUTES, 10 unless told otherwise
#   make manual             the manual as Markdown, in docs/manual
#   make dist               the source with its crates, a bill of materials, and sums, in target/dist
#   sudo make install       what was built, with units, under PREFIX and DESTDIR
#   sudo make uninstall     all of that but /etc/masterpolicyd

PREFIX = /usr/local
sbindir = $(PREFIX)/sbin
mandir = $(PREFIX)/share/man
libdir = $(PREFIX)/lib
unitdir = $(libdir)/systemd/system
# Not under PREFIX: it is where the daemon looks when nobody says -c.
sysconfdir = /etc

CARGO = scripts/cargo
CARGO_TARGET_DIR ?= target
BINARY = $(CARGO_TARGET_DIR)/release/masterpolicyd
EXAMPLE = packaging/masterpolicyd.toml
PAGES = $(wildcard man/*.[0-9])
UNITS = $(wildcard packaging/systemd/*.service packaging/systemd/*.socket)
SCRIPTS = .ci/run $(wildcard scripts/*)
CONFIG = $(DESTDIR)$(sysconfdir)/masterpolicyd
# Where packages of applications put their drop-ins. The daemon cannot read it if it is created later.
PACKAGES = $(DESTDIR)/usr/lib/masterpolicyd/policy.d
INSTALL = install

FUZZ_SECONDS = 600

.PHONY: all build run check bench fuzz mutants soak manual install uninstall clean
.PHONY: check-tools check-format check-lints check-manual check-scripts check-dependencies check-tests check-instructions check-oldest-rust
# The checks take turns, so that what they print can be read; cargo uses every core by itself.
.NOTPARALLEL:

all: build

build:
	@scripts/prepare build
	$(CARGO) build --release --locked

run:
	@scripts/run check-root
	@$(MAKE) --no-print-directory build
	@scripts/run serve $(BINARY) $(EXAMPLE)

check: check-tools check-format check-lints check-manual check-scripts check-dependencies check-tests check-instructions

check-tools:
	@scripts/prepare check

check-format:
	@scripts/if-installed "$(CARGO) fmt --version" rustfmt \
		$(CARGO) fmt --check

check-lints:
	@scripts/if-installed "$(CARGO) clippy --version" clippy \
		$(CARGO) clippy --all-targets --locked -- -D warnings

check-manual:
	@scripts/if-installed "command -v mandoc" mandoc scripts/lint-manual $(PAGES)
	@scripts/if-installed "command -v mandoc" "mandoc (docs/manual)" scripts/manual --check

check-scripts:
	@scripts/if-installed "command -v shellcheck" shellcheck shellcheck $(SCRIPTS)

check-dependencies:
	@scripts/if-installed "$(CARGO) deny --version" cargo-deny \
		$(CARGO) deny check licenses bans sources

check-tests:
	@scripts/test

check-instructions:
	@scripts/if-installed "command -v valgrind" instructions \
		$(CARGO) bench --locked --bench instructions

check-oldest-rust:
	@scripts/prepare build
	@scripts/oldest-rust

bench:
	@scripts/prepare bench
	@scripts/bench $(if $(QUICK),--quick) $(BENCH_ARGUMENTS)

fuzz:
	@scripts/fuzz $(FUZZ_SECONDS)

mutants:
	@scripts/mutants $(ROOM)

manual:
	@scripts/manual

soak:
	@scripts/prepare check
	$(CARGO) test --release --locked --test soak -- --include-ignored --nocapture

install:
	@test -x $(BINARY) || { echo "$(BINARY) is not built yet: run 'make build' first" >&2; exit 1; }
	$(INSTALL) -d $(DESTDIR)$(sbindir) $(CONFIG)/policy.d
	@$(INSTALL) -d $(PACKAGES) || echo "without it, no package can bring a drop-in; all else works"
	$(INSTALL) -m 755 $(BINARY) $(DESTDIR)$(sbindir)/masterpolicyd
	for page in $(PAGES); do \
		directory=$(DESTDIR)$(mandir)/man$${page##*.}; \
		$(INSTALL) -d $$directory && $(INSTALL) -m 644 $$page $$directory || exit 1; \
	done
	@if test -e $(CONFIG)/masterpolicyd.toml; then \
		echo "$(CONFIG)/masterpolicyd.toml is there and stays as it is"; \
	else \
		echo "$(INSTALL) -m 644 $(EXAMPLE) $(CONFIG)/masterpolicyd.toml"; \
		$(INSTALL) -m 644 $(EXAMPLE) $(CONFIG)/masterpolicyd.toml; \
	fi
	$(INSTALL) -d $(DESTDIR)$(unitdir) $(DESTDIR)$(libdir)/sysusers.d $(DESTDIR)$(libdir)/tmpfiles.d
	for unit in $(UNITS); do \
		sed 's|/usr/sbin/masterpolicyd|$(sbindir)/masterpolicyd|g' $$unit >$(DESTDIR)$(unitdir)/$${unit##*/} && \
		chmod 644 $(DESTDIR)$(unitdir)/$${unit##*/} || exit 1; \
	done
	$(INSTALL) -m 644 packaging/systemd/masterpolicyd.sysusers $(DESTDIR)$(libdir)/sysusers.d/masterpolicyd.conf
	$(INSTALL) -m 644 packaging/systemd/masterpolicyd.tmpfiles $(DESTDIR)$(libdir)/tmpfiles.d/masterpolicyd.conf
	@echo "Serve, now and after each boot, with systemd:"
	@echo "    systemd-sysusers $(libdir)/sysusers.d/masterpolicyd.conf"
	@echo "    systemd-tmpfiles --create $(libdir)/tmpfiles.d/masterpolicyd.conf"
	@echo "    systemctl daemon-reload"
	@echo "    systemctl enable --now masterpolicyd"

uninstall:
	@echo "A service that runs goes on. With systemd, stop it, and let no boot start it:"
	@echo "    systemctl disable --now masterpolicyd.socket masterpolicyd.service"
	@echo "    systemctl daemon-reload"
	@echo "and so each masterpolicyd@NAME.service that you have enabled."
	rm -f $(DESTDIR)$(sbindir)/masterpolicyd
	for page in $(PAGES); do \
		rm -f $(DESTDIR)$(mandir)/man$${page##*.}/$${page##*/}; \
	done
	for unit in $(UNITS); do rm -f $(DESTDIR)$(unitdir)/$${unit##*/}; done
	rm -f $(DESTDIR)$(libdir)/sysusers.d/masterpolicyd.conf $(DESTDIR)$(libdir)/tmpfiles.d/masterpolicyd.conf
	@rmdir $(PACKAGES) $(dir $(PACKAGES)) 2>/dev/null || true
	@if test -d $(CONFIG); then echo "$(CONFIG) is yours and stays"; fi

clean:
	$(CARGO) clean

include packaging/Makefile.inc
