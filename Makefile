# sluiced - see `make help`
VERSION   := 0.2.0
V         ?= release
JOBS      ?= $(shell nproc)
DEPS      := build/deps
B         := build/$(V)
CC         = gcc
CLANG     ?= clang
prefix    ?= /usr/local
sysconfdir ?= /etc
exec_prefix ?= $(prefix)
bindir    ?= $(exec_prefix)/bin
sbindir   ?= $(exec_prefix)/sbin
datarootdir ?= $(prefix)/share
mandir    ?= $(datarootdir)/man
libdir    ?= $(exec_prefix)/lib
includedir ?= $(prefix)/include
pkgconfigdir ?= $(libdir)/pkgconfig
docdir    ?= $(datarootdir)/doc/sluiced
unitdir   ?= $(prefix)/lib/systemd/system
sysusersdir ?= $(prefix)/lib/sysusers.d
pkgdatadir ?= $(datarootdir)/sluiced
completiondir ?= $(datarootdir)/bash-completion/completions
zshcompletiondir ?= $(datarootdir)/zsh/site-functions
fishcompletiondir ?= $(datarootdir)/fish/vendor_completions.d
INSTALL   ?= install
INSTALL_PROGRAM ?= $(INSTALL)
INSTALL_DATA ?= $(INSTALL) -m 644

# Paths below are relative to this directory, so that its own path may hold anything.
space := $(subst ,, )
ifneq ($(findstring $(space),$(CURDIR)),)
$(error sluiced cannot be built in a directory whose path has a space: $(CURDIR))
endif
export PKG_CONFIG_PATH := $(CURDIR)/$(DEPS)/lib/pkgconfig$(if $(PKG_CONFIG_PATH),:$(PKG_CONFIG_PATH))
export PATH := $(CURDIR)/build/tools:$(PATH)
# $(shell) of make before 4.4 does not see exported variables.
PKG_CONFIG := PKG_CONFIG_PATH='$(PKG_CONFIG_PATH)' pkg-config
PKGS      := hiredis_ssl hiredis yyjson libuv yaml-0.1 libcyaml libssl libcrypto

WARN      := -Wall -Wextra -Wconversion -Wshadow -Wswitch-enum -Wstrict-prototypes -Wmissing-prototypes -Werror
CPPFLAGS  += -Isrc -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"'
# What hardens, where the compiler and the libc have it; scripts/check-hardening looks at the result.
takes      = $(shell $(CC) -O2 -Werror $(1) -include stdio.h -x c -c -o /dev/null /dev/null >/dev/null 2>&1 && echo '$(1)')
FORTIFY   := $(or $(call takes,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
HARDEN    := $(call takes,-fstack-clash-protection) $(call takes,-fcf-protection) $(call takes,-mbranch-protection=standard)
# The daemon is linked as one unit where the compiler can: a seventh less CPU in entries mode (make bench, h10k).
# Fat objects, and -fno-lto: everything else links them as they are, which takes a tenth of the time.
LTO       := $(shell echo 'int main(void) { return 0; }' | $(CC) -O2 -Werror -flto=auto -ffat-lto-objects -x c -o /dev/null - \
	>/dev/null 2>&1 && echo '-flto=auto -ffat-lto-objects')
CFLAGS_release := -O2 -g -fPIE -fstack-protector-strong $(HARDEN) $(FORTIFY) -ffile-prefix-map=$(CURDIR)=.
LINK_UNITS := $(if $(LTO),-fno-lto)
LDFLAGS_release = -pie -Wl,-z,relro,-z,now,-z,noexecstack $(LINK_UNITS)
CFLAGS_debug   := -O0 -g3 -DSLUICE_CHECKS
CFLAGS_asan    := -O1 -g -DSLUICE_CHECKS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_asan   := -fsanitize=address,undefined
CFLAGS_tsan    := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS_tsan   := -fsanitize=thread
CFLAGS_fault   := -O1 -g -DSLUICE_FAULT_POINTS
CFLAGS_cov     := -O0 -g --coverage -fprofile-update=atomic
LDFLAGS_cov    := --coverage
CFLAGS_fuzz    := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_fuzz   := -fsanitize=address,undefined
VARIANTS       := release debug asan tsan fault cov fuzz
ifeq ($(filter $(V),$(VARIANTS)),)
$(error V=$(V): no such variant; one of $(VARIANTS))
endif
ifeq ($(V),fuzz)
CC := $(CLANG)
endif

PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null | sed 's/-I/-isystem /g')
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)
ALL_CFLAGS = -std=c17 $(WARN) $(CFLAGS_$(V)) $(ONE_UNIT) $(CFLAGS) $(PKG_CFLAGS) -MMD -MP -pthread
ALL_LIBS   = $(PKG_LIBS) -pthread -lm

HEADERS   := $(sort $(shell find src -name '*.h'))
SRC       := $(sort $(shell find src -name '*.c'))
LIB_SRC   := $(filter-out src/bin/%,$(SRC))
LIB_OBJ   := $(LIB_SRC:%.c=$(B)/%.o)
PROGRAMS  := $(if $(wildcard src/bin/sluiced/main.c),sluiced) $(if $(wildcard src/bin/sluicectl/main.c),sluicectl) \
	$(if $(wildcard src/bin/sluice_run/main.c),sluice-run)

# libsluice-worker, for programs of others: src/client and the little it needs of ours, in one piece
CLIENT    := libsluice-worker
CLIENT_SONAME := $(CLIENT).so.0
CLIENT_SRC := $(wildcard src/client/*.c) $(patsubst %,src/base/%.c,buf heap map mem mono utf8) \
	$(patsubst %,src/codec/%.c,entry_id frame_split json)
CLIENT_OBJ := $(CLIENT_SRC:%.c=$(B)/pic/%.o)
CLIENT_LIBS := $(if $(filter release,$(V)),$(B)/$(CLIENT).a $(B)/$(CLIENT_SONAME))
YYJSON_A  := $(wildcard $(DEPS)/lib/libyyjson.a)
YYJSON_LIB := $(or $(YYJSON_A),$(shell $(PKG_CONFIG) --libs yyjson 2>/dev/null))

TLIB_SRC  := $(wildcard tests/lib/*.c)
TLIB_OBJ  := $(TLIB_SRC:%.c=$(B)/%.o)
UNIT_SRC  := $(wildcard tests/unit/*/test_*.c) $(wildcard tests/io/test_*.c)
UNIT_BIN  := $(UNIT_SRC:%.c=$(B)/%)
SIM_SRC   := $(wildcard tests/sim/test_*.c)
SIM_BIN   := $(SIM_SRC:%.c=$(B)/%)
# Planted faults are found by what the simulation holds; under the sanitizers that takes a minute and tells nothing new.
ifeq ($(V),asan)
SIM_BIN   := $(filter-out %/test_planted,$(SIM_BIN))
endif
SIM_OBJ   := $(patsubst %.c,$(B)/%.o,$(filter-out $(SIM_SRC),$(wildcard tests/sim/*.c)))
THREAD_BIN := $(patsubst %.c,$(B)/%,$(wildcard tests/thread/*.c))
MODEL_BIN := $(B)/tests/unit/codec/test_model_against_real $(B)/tests/unit/codec/test_command_script
OOM_BIN   := $(B)/tests/oom/oom_paths
FUZZ_BIN  := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCH_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/bench/*.c))
bin_obj    = $(patsubst %.c,$(B)/%.o,$(wildcard src/bin/$(1)/*.c))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all programs deps-check
# pkg-config is asked while this file is read: what needs libraries runs in a second make, after setup.
all: deps-check
	+@$(MAKE) --no-print-directory V=$(V) programs

programs: $(B)/libsluice.a $(PROGRAMS:%=$(B)/%) $(CLIENT_LIBS)
ifeq ($(V),release)
	@for p in $(PROGRAMS) $(notdir $(CLIENT_LIBS)); do ln -sf release/$$p build/$$p; done
endif

deps-check:
	@pkg-config --exists $(PKGS) 'hiredis >= 1.2.0' 'yyjson >= 0.10' 2>/dev/null || scripts/setup build

define compile
@mkdir -p $(@D)
@echo "  CC $(V) $<"
@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c $< -o $@
endef
define link
@echo "  LD $(V) $@"
@$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)
endef
$(B)/%.o: %.c
	$(compile)
ifeq ($(V),release)
$(LIB_OBJ) $(call bin_obj,sluiced): ONE_UNIT := $(LTO)
$(B)/sluiced: LINK_UNITS := $(LTO)
endif

# only looked at: paths that use NULL, freed or leaked memory
$(B)/analyzed/%.o: %.c
	@mkdir -p $(@D)
	@echo "  ANALYZE $<"
	@$(CC) $(CPPFLAGS) $(filter-out -O%,$(ALL_CFLAGS)) -O1 -fanalyzer -c $< -o $@

$(B)/tests/%.o: CPPFLAGS += -Itests

$(B)/libsluice.a: $(LIB_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	@ar qcsD $@ $^

$(B)/pic/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $(V) $< (library)"
	@$(CC) $(CPPFLAGS) $(filter-out -fPIE,$(ALL_CFLAGS)) -fPIC -fvisibility=hidden -c $< -o $@
$(B)/$(CLIENT_SONAME): $(CLIENT_OBJ)
	@echo "  LD $(V) $@"
	@$(CC) $(filter-out -pie,$(LDFLAGS_$(V))) $(LDFLAGS) -shared -Wl,-soname,$(CLIENT_SONAME) -Wl,--exclude-libs,ALL -o $@ \
		$(CLIENT_OBJ) $(YYJSON_LIB) -pthread
# one object in which nothing but the interface has a name to link with
$(B)/$(CLIENT).a: $(CLIENT_OBJ)
	@rm -f $@
	@$(CC) -r -nostdlib -o $(B)/$(CLIENT).o $(CLIENT_OBJ) $(YYJSON_A)
	@objcopy --wildcard --keep-global-symbol='sluice_*' $(B)/$(CLIENT).o
	@ar qcsD $@ $(B)/$(CLIENT).o

$(B)/sluiced: $(call bin_obj,sluiced) $(B)/libsluice.a
$(B)/sluicectl: $(call bin_obj,sluicectl) $(B)/libsluice.a
$(B)/sluice-run: $(call bin_obj,sluice_run) $(B)/libsluice.a
$(PROGRAMS:%=$(B)/%):
	$(link)

# ---- tests
$(B)/libtests.a: $(TLIB_OBJ)
	@mkdir -p $(@D)
	@rm -f $@
	@ar qcsD $@ $^

$(UNIT_BIN) $(SIM_BIN): TEST_LIBS := -lcriterion
$(FUZZ_BIN): TEST_LIBS := -fsanitize=fuzzer
$(SIM_BIN): $(SIM_OBJ)
$(OOM_BIN): $(B)/tests/oom/failing_malloc.o
$(UNIT_BIN) $(SIM_BIN) $(THREAD_BIN) $(OOM_BIN) $(FUZZ_BIN): $(B)/tests/%: $(B)/tests/%.o $(B)/libtests.a $(B)/libsluice.a
	@echo "  LD $(V) $@"
	@$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $@ $(filter %.o,$^) $(B)/libtests.a $(B)/libsluice.a $(ALL_LIBS) $(TEST_LIBS)

# libsluice-worker as others link it, under tests/conformance and tests/bench/clients
build/%/c-worker: $(B)/$(CLIENT).a
	@mkdir -p $(@D)
	@$(CC) -std=c17 $(WARN) -O2 -g -D_GNU_SOURCE -Isrc/client $(PKG_CFLAGS) -o $@ $(filter %.c,$^) $(B)/$(CLIENT).a $(YYJSON_LIB) -pthread
build/conformance/c-worker: tests/conformance/workers/worker.c
build/bench-clients/c-worker: tests/bench/clients/worker.c

$(B)/bench: $(BENCH_OBJ) $(B)/libsluice.a
	@echo "  LD $(V) $@"
	@$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

include scripts/targets.mk

-include $(shell find $(B) -name '*.d' 2>/dev/null)
