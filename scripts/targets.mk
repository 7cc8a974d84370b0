# Targets besides building: tests, checks, install, demo, help.
SECONDS      ?= 600
SEED         ?=
FUZZ_SECONDS ?= 10
SMOKE        ?= main_job
C_FILES      := $(wildcard src/*/*.[ch] tests/lib/*.[ch] tests/unit/*/*.[ch] tests/sim/*.[ch] tests/io/*.[ch] \
	tests/thread/*.[ch] tests/fuzz/*.[ch] tests/bench/*.[ch])
SH_FILES     := $(shell grep -lE '^\#!/bin/(ba)?sh' scripts/* scripts/deb/* .ci/* 2>/dev/null)
MAN_FILES    := $(wildcard man/*.[1-8])
AGAIN        = +@$(MAKE) --no-print-directory $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))

# ---- everything
.PHONY: check unit sim thread asan system fuzz fuzz-short bench chaos coverage
check:
	@scripts/setup check
	+@JOBS=$(JOBS) MAKE='$(MAKE)' scripts/check

# ---- tests; each prints "<group>: N passed, N failed"
unit: unit-bins
	@scripts/run-criterion unit $(UNIT_BIN)
unit-bins: $(UNIT_BIN)
sim: sim-bins
	@scripts/run-criterion sim $(SIM_BIN)
sim-bins: $(SIM_BIN)
thread-bins: $(THREAD_BIN)
thread:
	$(AGAIN) V=tsan thread-bins
	@scripts/run-mains thread $(patsubst %.c,build/tsan/%,$(wildcard tests/thread/*.c))
asan:
	$(AGAIN) V=asan unit-bins sim-bins programs
	+@$(MAKE) --no-print-directory V=asan unit sim
	@scripts/run-system asan-system build/asan --only '$(SMOKE)'
system: all
	@scripts/check-no-faults --self-test $(B)
	$(AGAIN) V=fault programs
	@scripts/run-system system build
fuzz-bins: $(FUZZ_BIN)
fuzz-short:
	$(AGAIN) V=fuzz fuzz-bins
	@scripts/run-fuzz $(FUZZ_SECONDS) $(patsubst %.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz:
	+@$(MAKE) --no-print-directory fuzz-short FUZZ_SECONDS=$(SECONDS)
bench-bins: $(B)/bench
bench: all
	$(AGAIN) bench-bins
	@$(B)/bench -d $(B)/sluiced -o build/bench.json $(BENCH_ARGS) $(BENCH)
chaos: all
	@test -e tests/system/chaos.py || { echo "chaos: tests/system/chaos.py is not there"; exit 1; }
	python3 tests/system/chaos.py --build build --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))
coverage:
	$(AGAIN) V=cov unit-bins sim-bins
	+@$(MAKE) --no-print-directory V=cov unit sim
	@scripts/coverage build/cov
.PHONY: unit-bins sim-bins thread-bins fuzz-bins bench-bins

# ---- checks of the text itself
.PHONY: check-includes check-core-symbols check-headers check-units check-install check-deb check-boot lint format format-check
check-includes:
	@scripts/check-includes --self-test
	@scripts/check-includes .
check-core-symbols: $(LIB_OBJ)
	@scripts/check-core-symbols --self-test
	@scripts/check-core-symbols $(B)
check-headers: $(HEADERS:%=$(B)/headers/%.ok)
$(B)/headers/%.ok: % $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -fsyntax-only -include $< -x c /dev/null
	@touch $@
check-units:
	@scripts/check-units
check-install: all
	+@MAKE='$(MAKE)' scripts/check-install
check-deb: all
	+@scripts/check-deb '$(VERSION)'
check-boot: all
	+@scripts/check-boot '$(VERSION)'
lint:
	@cppcheck --quiet --enable=warning,performance,portability --std=c11 --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem -Isrc -D_GNU_SOURCE -DSLUICE_VERSION='"x"' \
		-DHIREDIS_MAJOR=1 -DHIREDIS_MINOR=2 -DHIREDIS_PATCH=0 src
	@shellcheck -S warning $(SH_FILES)
	@for f in $(MAN_FILES); do mandoc -Tlint -W warning $$f || exit 1; done
	@echo "lint: fine"
format:
	@clang-format -i $(C_FILES)
format-check:
	@clang-format --dry-run -Werror $(C_FILES)

# ---- use
.PHONY: demo install install-strip installdirs uninstall deb clean help
demo:
	@test -e scripts/demo || { echo "demo: scripts/demo is not there"; exit 1; }
	@scripts/setup demo
	+@$(MAKE) --no-print-directory all
	@scripts/demo

D = $(DESTDIR)
DOC_FILES = README.md etc/prometheus-alerts.yml etc/grafana-dashboard.json $(wildcard etc/examples/*)
install-strip:
	+@$(MAKE) --no-print-directory INSTALL_PROGRAM='$(INSTALL_PROGRAM) -s' install
installdirs:
	@$(INSTALL) -d '$D$(bindir)' '$D$(sbindir)' '$D$(unitdir)' '$D$(sysusersdir)' '$D$(sysconfdir)' '$D$(docdir)' \
		'$D$(completiondir)' $(foreach s,$(sort $(subst .,,$(suffix $(MAN_FILES)))),'$D$(mandir)/man$s')
install: all installdirs
	@for p in $(PROGRAMS); do case $$p in sluiced) d='$(sbindir)';; *) d='$(bindir)';; esac; \
		echo "install $$d/$$p"; $(INSTALL_PROGRAM) -m 755 $(B)/$$p "$D$$d/$$p" || exit 1; done
	@for m in $(MAN_FILES); do $(INSTALL_DATA) $$m "$D$(mandir)/man$${m##*.}/" || exit 1; done
	@for u in systemd/*.service systemd/*.socket; do \
		sed 's|@sbindir@|$(sbindir)|g; s|@bindir@|$(bindir)|g; s|@sysconfdir@|$(sysconfdir)|g' $$u \
			>'$D$(unitdir)'/$${u##*/} && chmod 644 '$D$(unitdir)'/$${u##*/} || exit 1; done
	$(INSTALL_DATA) systemd/sluiced.sysusers '$D$(sysusersdir)/sluiced.conf'
	$(INSTALL_DATA) etc/sluicectl.bash '$D$(completiondir)/sluicectl'
	$(INSTALL_DATA) $(DOC_FILES) '$D$(docdir)/'
	test -e '$D$(sysconfdir)/sluiced.yaml' || $(INSTALL_DATA) etc/sluiced.yaml '$D$(sysconfdir)/sluiced.yaml'
	@if [ -z '$D' ] && [ -d /run/systemd/system ]; then \
		echo "next: systemd-sysusers && systemctl daemon-reload, then $(sysconfdir)/sluiced.yaml"; fi

uninstall: # the configuration and the user stay
	rm -f '$D$(sbindir)/sluiced' '$D$(bindir)/sluicectl' '$D$(bindir)/sluice-run' '$D$(sysusersdir)/sluiced.conf' \
		'$D$(completiondir)/sluicectl'
	rm -rf '$D$(docdir)'
	@for m in $(MAN_FILES); do rm -f "$D$(mandir)/man$${m##*.}/$${m##*/}"; done
	@for u in systemd/*.service systemd/*.socket; do rm -f '$D$(unitdir)'/$${u##*/}; done

deb: all
	@scripts/make-deb '$(VERSION)' build

clean: # what was downloaded stays; rm -rf build removes it too
	rm -rf $(filter-out build/deps build/tools,$(wildcard build/*))

help:
	@echo "make [V=release|debug|asan|tsan|fault|cov]  build sluiced, sluicectl, sluice-run into build/"
	@echo "make check       everything below that checks, in order; last line: N passed, N failed"
	@echo "make unit sim    Criterion tests          make thread     ThreadSanitizer"
	@echo "make asan        unit, sim, smoke under AddressSanitizer and UBSan"
	@echo "make system      real processes and a real redis-server"
	@echo "make fuzz-short  each fuzz target FUZZ_SECONDS=$(FUZZ_SECONDS)   make fuzz SECONDS=$(SECONDS)"
	@echo "make chaos       SEED= SECONDS=           make coverage"
	@echo "make bench       BENCH=\"a c\" some cases; BENCH_ARGS=\"-r 5 -s 60\" repeats, seconds"
	@echo "make lint format format-check check-includes check-core-symbols check-headers check-units"
	@echo "make check-install check-deb check-boot   a staging root; the package in an overlay of /, under a systemd (root only)"
	@echo "make demo        a small fleet to look at"
	@echo "make install     prefix=$(prefix) sysconfdir=$(sysconfdir) DESTDIR=    make uninstall   make deb"
	@echo "make clean       removes build/ but not what setup fetched"
