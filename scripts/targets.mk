# Targets besides building: tests, checks, install, demo, help.
SECONDS      ?= 600
SEED         ?=
FUZZ_SECONDS ?= 10
SMOKE        ?= main_job
# system tests that go along most of run/ and bin/
COVERAGE     ?= main_job ctl service config sluice_run sluicectl_cli worker_protocol redis_trouble handoff restart. dlq limits
VALGRIND     ?= main_job.whole_job main_job.sluice_run main_job.second_entry restart.handover service.reload_good \
	worker_protocol.fail worker_protocol.resume worker_protocol.garbage ctl.dlq_and_scan
C_FILES      := $(SRC) $(HEADERS) $(wildcard tests/lib/*.[ch] tests/unit/*/*.[ch] tests/sim/*.[ch] tests/io/*.[ch] \
	tests/thread/*.[ch] tests/oom/*.[ch] tests/fuzz/*.[ch] tests/bench/*.[ch])
SH_FILES     := $(shell grep -lE '^\#!/bin/(ba)?sh' scripts/* scripts/deb/* .ci/* 2>/dev/null)
MAN_FILES    := $(wildcard man/*.[1-8])
AGAIN        = +@$(MAKE) --no-print-directory $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))

# ---- everything
.PHONY: check unit sim thread oom asan valgrind system servers fuzz fuzz-short fuzz-planted planted bench chaos chaos-entries chaos-verbs chaos-replies long credentials coverage
check:
	@scripts/setup check
	+@JOBS=$(JOBS) MAKE='$(MAKE)' scripts/check

# One test, or those of a pattern, by name: T=lease/stops_work (a suite or suite/test of unit, simulation and adapters),
# T=restart.handover (a system test), T='seed 4711' (one seed of the simulation).
test: all unit-bins sim-bins
	@scripts/run-test '$(T)' $(UNIT_BIN) $(SIM_BIN)
# for clangd and its like
compile-commands:
	@scripts/compile-commands $(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -- $(SRC) $(wildcard tests/*/*.c tests/unit/*/*.c) \
		>build/compile_commands.json
	@echo "build/compile_commands.json: $$(grep -c '"file"' build/compile_commands.json) files"

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
oom-bins: $(OOM_BIN)
oom: oom-bins
	@scripts/run-mains oom $(OOM_BIN)
asan:
	$(AGAIN) V=asan unit-bins sim-bins programs
	+@$(MAKE) --no-print-directory V=asan unit sim
	@SLUICE_TEST_END=stop scripts/run-system asan-system build/asan --only '$(SMOKE)'
system: all
	@scripts/check-no-faults --self-test $(B)
	$(AGAIN) V=fault programs
	$(AGAIN) other-version
	@scripts/run-system system build
# The same, and the model Redis, against other servers than the system's: minutes for each of SERVERS
SERVERS  ?= forky:redis-server trixie:valkey-server forky:valkey-server
ONLY     ?=
servers: all unit-bins
	@scripts/get-servers build/servers $(SERVERS)
	$(AGAIN) V=fault programs
	$(AGAIN) other-version
	@scripts/on-servers build/servers $(SERVERS) -- scripts/run-criterion model $(MODEL_BIN)
	@scripts/on-servers build/servers $(SERVERS) -- scripts/run-system servers build $(ONLY:%=--only '%')
# The daemon once more with another version, for tests of upgrades: what names the version is compiled anew, the rest linked.
O := $(B)/other-version
O_SRC := $(shell grep -l SLUICE_VERSION $(LIB_SRC) src/bin/sluiced/*.c)
O_OBJ := $(O_SRC:%.c=$(O)/%.o)
.PHONY: other-version
other-version: $(O)/sluiced
ifeq ($(V),release)
	@ln -sfn release/other-version build/other-version
endif
$(O_OBJ): VERSION := $(VERSION)+other
$(O)/%.o: %.c
	$(compile)
$(O)/sluiced: $(O_OBJ) $(filter-out $(O_SRC:%.c=$(B)/%.o),$(call bin_obj,sluiced)) $(B)/libsluice.a
	$(link)
# the clients of etc/clients, for the languages that are there; make clients: what the others need
conformance:
	@scripts/conformance $(LANGUAGES)
clients:
	@scripts/setup clients
valgrind:
	$(AGAIN) V=debug programs
	@scripts/run-valgrind build/debug $(VALGRIND)
fuzz-bins: $(FUZZ_BIN)
fuzz-short:
	$(AGAIN) V=fuzz fuzz-bins
	@scripts/run-fuzz $(FUZZ_SECONDS) $(patsubst %.c,build/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
fuzz-planted:
	$(AGAIN) V=fuzz fuzz-bins
	+@MAKE='$(MAKE)' scripts/fuzz-planted 120 $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
# one target with a broken copy of one source, see scripts/fuzz-planted; the object goes before the library that has it whole
planted: $(B)/libsluice.a
	$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c $(PLANTED) -o $(PLANTED:.c=.o)
	$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $(B)/planted/$(TARGET)/fuzz_$(TARGET) $(B)/tests/fuzz/fuzz_$(TARGET).o $(PLANTED:.c=.o) \
		$(B)/libtests.a $(B)/libsluice.a $(ALL_LIBS) -fsanitize=fuzzer
fuzz:
	+@$(MAKE) --no-print-directory fuzz-short FUZZ_SECONDS='$(if $(FUZZ_CPU),--cpu $(FUZZ_CPU),$(SECONDS))'
bench-bins: $(B)/bench
# The last release's daemon, built from its commit; where the history is not there, benchmarks go without.
LAST_RELEASE ?= a4857fa
LAST_DIR  := build/last-release/$(LAST_RELEASE)
last-release: deps-check
	@scripts/build-commit '$(LAST_RELEASE)' $(LAST_DIR) && ln -sfn $(LAST_RELEASE)/build build/last-release/build || \
		echo "last-release: $(LAST_RELEASE) cannot be built here"
bench: all last-release
	$(AGAIN) bench-bins
	@$(B)/bench -d $(B)/sluiced -l build/last-release/build/sluiced -o build/bench.json $(BENCH_ARGS) $(BENCH)
bench-clients:
	@tests/bench/clients/bench $(BENCH_ARGS)
# Streams on a cluster, then entries mode on a cluster and on one server, a third of the time each
CHAOS = python3 tests/system/$(1) --build build --seconds $(2) $(if $(SEED),--seed $(SEED))
chaos: all
	$(call CHAOS,chaos.py,$$(($(SECONDS) / 3)))
	$(call CHAOS,chaos_entries.py,$$(($(SECONDS) / 3)) --topology cluster)
	$(call CHAOS,chaos_entries.py,$$(($(SECONDS) / 3)) --topology standalone)
TOPOLOGY ?= cluster
chaos-entries: all
	$(call CHAOS,chaos_entries.py,$(SECONDS) --topology $(TOPOLOGY) $(if $(KEYS),--keys $(KEYS) --whole))
# Operators, and what Redis says: under the sanitizers, or CHAOS_V=release.
CHAOS_V  ?= asan
ROUNDS    = python3 tests/system/$(1) --build build/$(CHAOS_V) --seconds $(2) $(if $(SEED),--seed $(SEED))
chaos-verbs:
	$(AGAIN) V=$(CHAOS_V) programs other-version
	$(call ROUNDS,chaos_verbs.py,$$(($(SECONDS) / 2)) --topology standalone)
	$(call ROUNDS,chaos_verbs.py,$$(($(SECONDS) / 2)) --topology cluster)
chaos-replies:
	$(AGAIN) V=$(CHAOS_V) programs
	$(call ROUNDS,chaos_replies.py,$$(($(SECONDS) / 5)) --topology standalone)
	$(call ROUNDS,chaos_replies.py,$$(($(SECONDS) / 5)) --topology cluster)
	$(call ROUNDS,chaos_replies.py,$$(($(SECONDS) / 5)) --topology sentinel)
	$(call ROUNDS,chaos_replies.py,$$(($(SECONDS) / 5)) --topology standalone --lies)
	$(call ROUNDS,chaos_replies.py,$$(($(SECONDS) / 5)) --topology cluster --lies)
# What takes minutes of real time: ten rolling updates with streams of five minutes and the like
long: all
	$(AGAIN) V=fault programs
	@scripts/run-system long build --long --no-second-try $(ONLY:%=--only '%')
credentials: all
	CREDENTIALS_FOR=300 CREDENTIALS_EVERY=20 scripts/run-system credentials build --only credentials.
coverage:
	$(AGAIN) V=cov programs unit-bins sim-bins
	@find build/cov -name '*.gcda' -delete
	+@SIM_SEEDS=2000 $(MAKE) --no-print-directory V=cov unit sim
	@SLUICE_TEST_END=stop scripts/run-system coverage-system build/cov $(COVERAGE:%=--only '%')
	@scripts/coverage build/cov
.PHONY: conformance clients bench-clients last-release unit-bins sim-bins thread-bins oom-bins fuzz-bins bench-bins

# ---- checks of the text itself
.PHONY: check-source compile-commands test
.PHONY: check-analyzer tidy check-hardening reproducible check-includes check-core-symbols check-headers check-units check-man
.PHONY: check-alerts check-manifests check-dist check-install check-deb check-boot lint format format-check
check-includes:
	@scripts/check-includes --self-test
	@scripts/check-includes .
check-source:
	@scripts/check-source --self-test
	@scripts/check-source .
	@scripts/check-stale --self-test
	@scripts/check-stale .
check-core-symbols: $(LIB_OBJ)
	@scripts/check-core-symbols --self-test
	@scripts/check-core-symbols $(LIB_OBJ)
check-headers: $(HEADERS:%=$(B)/headers/%.ok)
$(B)/headers/%.ok: % $(HEADERS)
	@mkdir -p $(@D)
	@$(CC) $(CPPFLAGS) $(filter-out -MMD -MP,$(ALL_CFLAGS)) -fsyntax-only -include $< -x c /dev/null
	@touch $@
# A planted use after free must be seen, or the analyzer looks at nothing.
check-analyzer: $(SRC:%.c=$(B)/analyzed/%.o)
	@! echo 'void free(void *); int f(int *p); int f(int *p) { free(p); return *p; }' | \
		$(CC) -O1 -fanalyzer -Werror -x c -c -o /dev/null - 2>/dev/null || \
		{ echo "analyzer: a planted use after free is not seen"; exit 1; }
	@echo "analyzer: fine"
# builds four times
reproducible: deps-check
	@scripts/check-reproducible --self-test
	@scripts/check-reproducible
# minutes; .clang-tidy says which checks
tidy:
	@command -v clang-tidy >/dev/null || { echo "clang-tidy is not installed"; exit 1; }
	@echo $(SRC) | xargs -n 1 | xargs -P $(JOBS) -I FILE clang-tidy --quiet FILE -- -std=c17 $(CPPFLAGS) $(PKG_CFLAGS) 2>/dev/null
	@echo "tidy: fine"
check-hardening: all
	@scripts/check-hardening --self-test $(PROGRAMS:%=build/release/%)
	@echo "hardening: fine"
check-units:
	@scripts/check-units
check-alerts:
	@scripts/check-alerts
check-manifests: all
	@scripts/check-manifests build/release
check-dist: all
	+@MAKE='$(MAKE)' scripts/check-dist
check-install: all
	+@MAKE='$(MAKE)' scripts/check-install
check-deb: all
	+@scripts/check-deb '$(VERSION)'
check-boot: all
	+@scripts/check-boot '$(VERSION)'
check-man:
	@scripts/check-man --self-test $(MAN_FILES)
lint:
	@cppcheck --quiet --enable=warning,performance,portability --std=c11 --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem -Isrc -D_GNU_SOURCE -DSLUICE_VERSION='"x"' \
		-DHIREDIS_MAJOR=1 -DHIREDIS_MINOR=2 -DHIREDIS_PATCH=0 src
	@shellcheck -S warning $(SH_FILES)
	@echo "lint: fine"
format:
	@clang-format -i $(C_FILES)
format-check:
	@clang-format --dry-run -Werror $(C_FILES)

# ---- use
.PHONY: dist demo install install-strip installdirs uninstall deb clean help
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
		'$D$(completiondir)' '$D$(zshcompletiondir)' '$D$(fishcompletiondir)' '$D$(pkgdatadir)' \
		'$D$(libdir)' '$D$(includedir)' '$D$(pkgconfigdir)' \
		$(foreach s,$(sort $(subst .,,$(suffix $(MAN_FILES)))),'$D$(mandir)/man$s')
install: all installdirs
	@for p in $(PROGRAMS); do case $$p in sluiced) d='$(sbindir)';; *) d='$(bindir)';; esac; \
		echo "install $$d/$$p"; $(INSTALL_PROGRAM) -m 755 $(B)/$$p "$D$$d/$$p" || exit 1; done
	@for m in $(MAN_FILES); do $(INSTALL_DATA) $$m "$D$(mandir)/man$${m##*.}/" || exit 1; done
	@for u in systemd/*.service systemd/*.socket systemd/*.target; do \
		sed 's|@sbindir@|$(sbindir)|g; s|@bindir@|$(bindir)|g; s|@sysconfdir@|$(sysconfdir)|g' $$u \
			>'$D$(unitdir)'/$${u##*/} && chmod 644 '$D$(unitdir)'/$${u##*/} || exit 1; done
	$(INSTALL_DATA) $(CLIENT_LIBS) '$D$(libdir)/'
	ln -sf $(CLIENT_SONAME) '$D$(libdir)/$(CLIENT).so'
	$(INSTALL_DATA) src/client/sluice-worker.h '$D$(includedir)/'
	@sed 's|@prefix@|$(prefix)|; s|@libdir@|$(libdir)|; s|@includedir@|$(includedir)|; s|@version@|$(VERSION)|; s|@yyjson@ *|$(if $(YYJSON_A),,$(YYJSON_LIB) )|' \
		src/client/sluice-worker.pc.in >'$D$(pkgconfigdir)/sluice-worker.pc' && chmod 644 '$D$(pkgconfigdir)/sluice-worker.pc'
	$(INSTALL_DATA) systemd/sluiced.sysusers '$D$(sysusersdir)/sluiced.conf'
	$(INSTALL_DATA) etc/completion/sluicectl.bash '$D$(completiondir)/sluicectl'
	$(INSTALL_DATA) etc/completion/_sluicectl '$D$(zshcompletiondir)/'
	$(INSTALL_DATA) etc/completion/sluicectl.fish '$D$(fishcompletiondir)/'
	$(INSTALL_DATA) etc/sluiced.acl '$D$(pkgdatadir)/'
	$(INSTALL_DATA) $(DOC_FILES) '$D$(docdir)/'
	test -e '$D$(sysconfdir)/sluiced.yaml' || $(INSTALL_DATA) etc/sluiced.yaml '$D$(sysconfdir)/sluiced.yaml'
	@if [ -z '$D' ] && [ -d /run/systemd/system ]; then \
		echo "next: systemd-sysusers && systemctl daemon-reload, then $(sysconfdir)/sluiced.yaml"; fi

uninstall: # the configuration and the user stay
	rm -f '$D$(sbindir)/sluiced' '$D$(bindir)/sluicectl' '$D$(bindir)/sluice-run' '$D$(sysusersdir)/sluiced.conf' \
		'$D$(completiondir)/sluicectl' '$D$(zshcompletiondir)/_sluicectl' '$D$(fishcompletiondir)/sluicectl.fish' \
		'$D$(pkgdatadir)/sluiced.acl'
	rm -f $(foreach x,a so so.0,'$D$(libdir)/$(CLIENT).$x') '$D$(includedir)/sluice-worker.h' '$D$(pkgconfigdir)/sluice-worker.pc'
	rm -f $(patsubst %,'$D$(docdir)/%',$(notdir $(DOC_FILES)))
	-rmdir '$D$(docdir)' '$D$(pkgdatadir)' 2>/dev/null
	@for m in $(MAN_FILES); do rm -f "$D$(mandir)/man$${m##*.}/$${m##*/}"; done
	@for u in systemd/*.service systemd/*.socket systemd/*.target; do rm -f '$D$(unitdir)'/$${u##*/}; done

dist:
	@scripts/make-dist build

deb: all
	@scripts/make-deb '$(VERSION)' build

clean: # what was downloaded stays; rm -rf build removes it too
	rm -rf $(filter-out build/deps build/tools,$(wildcard build/*))

help:
	@echo "make [V=release|debug|asan|tsan|fault|cov]  build sluiced, sluicectl, sluice-run into build/"
	@echo "make check       everything below that checks, in order; last line: N passed, N failed"
	@echo "make test T=NAME one test by name: lease/stops_work, restart.handover, 'seed 4711'"
	@echo "make compile-commands  build/compile_commands.json for clangd"
	@echo "make unit sim    Criterion tests          make thread     ThreadSanitizer"
	@echo "make oom         each allocation on the ways in is refused once (SLUICE_TEST_OOM=all: no strides)"
	@echo "make asan        unit, sim, smoke under AddressSanitizer and UBSan"
	@echo "make system      real processes and a real redis-server; other-version: the daemon they upgrade to"
	@echo "make servers     the system tests on Redis 8 and Valkey too (fetched); SERVERS=\"SUITE:PACKAGE …\" ONLY=\"PATTERN …\""
	@echo "make fuzz-short  each fuzz target FUZZ_SECONDS=$(FUZZ_SECONDS)   make fuzz SECONDS=$(SECONDS), or FUZZ_CPU= by processor time"
	@echo "make fuzz-planted  does each fuzz target find a bug that is planted for it?"
	@echo "make conformance  etc/clients against tests/conformance, LANGUAGES=\"python node go java c planted\"; make clients installs their tools"
	@echo "make chaos       SEED= SECONDS=     make chaos-entries  entries mode alone: TOPOLOGY=cluster|standalone KEYS="
	@echo "make chaos-verbs    SEED= SECONDS=  operators who do all at once, restarts, reloads; under the sanitizers, or CHAOS_V=release"
	@echo "make chaos-replies  SEED= SECONDS=  what Redis may say: pushes, errors, odd replies, cut connections; likewise"
	@echo "make long        system tests that take minutes each (tests/system/long_*.py); ONLY=PATTERN"
	@echo "make credentials  passwords and certificates that change every 20 s for 5 min, under load"
	@echo "make coverage    lines run by unit, sim and some system tests; fails below core 90 %, all 80 %"
	@echo "make valgrind    a few system tests under valgrind"
	@echo "make bench       BENCH=\"a c1000\" some cases; BENCH_ARGS=\"-r 5 -s 60\" repeats, seconds; -q: quickly"
	@echo "make bench-clients  streams and entries a second through each client of etc/clients"
	@echo "make lint format format-check check-source check-includes check-core-symbols check-headers check-man check-units check-hardening"
	@echo "make check-alerts  each alert rule is seen firing and silent; promtool"
	@echo "make dist        the committed source as a tarball, always the same bytes       make check-dist  names, versions, lists"
	@echo "make check-manifests  what etc/kubernetes and etc/compose say is true, and each setting is missed when it is gone"
	@echo "make check-analyzer gcc -fanalyzer              make tidy    clang-tidy, minutes"
	@echo "make reproducible  the same bytes wherever and whenever they are built"
	@echo "make check-install check-deb check-boot   a staging root; the package in an overlay of /, under a systemd (root only)"
	@echo "make demo        a small fleet to look at"
	@echo "make install     prefix=$(prefix) sysconfdir=$(sysconfdir) DESTDIR=    make uninstall   make deb"
	@echo "make clean       removes build/ but not what setup fetched"
