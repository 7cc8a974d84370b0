# sluiced - see `make help`
VERSION   := 0.1.0
V         ?= release
PREFIX_D  := $(CURDIR)/build/deps
B         := build/$(V)
CC        ?= gcc
prefix    ?= /usr/local
sysconfdir ?= /etc
bindir    ?= $(prefix)/bin
sbindir   ?= $(prefix)/sbin
mandir    ?= $(prefix)/share/man
unitdir   ?= $(prefix)/lib/systemd/system

export PKG_CONFIG_PATH := $(PREFIX_D)/lib/pkgconfig:$(PKG_CONFIG_PATH)
PKGS      := hiredis_ssl hiredis yyjson libuv yaml-0.1 libcyaml libssl libcrypto

WARN      := -Wall -Wextra -Wconversion -Wshadow -Wswitch-enum -Wstrict-prototypes -Wmissing-prototypes -Werror
CPPFLAGS  += -Isrc -D_GNU_SOURCE -DSLUICE_VERSION='"$(VERSION)"'
CFLAGS_release := -O2 -g -DNDEBUG_LIBS -fPIE -fstack-protector-strong -fstack-clash-protection -fcf-protection -D_FORTIFY_SOURCE=2
LDFLAGS_release := -pie -Wl,-z,relro,-z,now
CFLAGS_debug   := -O0 -g3
CFLAGS_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS_asan   := -fsanitize=address,undefined
CFLAGS_tsan    := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
LDFLAGS_tsan   := -fsanitize=thread
CFLAGS_fault   := -O1 -g -DSLUICE_FAULT_POINTS
CFLAGS_cov     := -O0 -g --coverage
LDFLAGS_cov    := --coverage

ALL_CFLAGS = -std=c17 $(WARN) $(CFLAGS_$(V)) $(CFLAGS) $(shell pkg-config --cflags $(PKGS) 2>/dev/null | sed 's/-I/-isystem /g') -MMD -MP -pthread
ALL_LIBS   = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -pthread -lm

LIB_SRC   := $(filter-out src/bin/%,$(wildcard src/*/*.c))
BIN_SRC   := $(wildcard src/bin/*.c)
CTL_OBJ   := $(patsubst %.c,$(B)/%.o,$(wildcard src/bin/sluicectl*.c))
LIB_OBJ   := $(LIB_SRC:%.c=$(B)/%.o)
TLIB_SRC  := $(wildcard tests/lib/*.c)
TLIB_OBJ  := $(TLIB_SRC:%.c=$(B)/%.o)
UNIT_SRC  := $(wildcard tests/unit/*/test_*.c) $(wildcard tests/io/test_*.c)
UNIT_BIN  := $(UNIT_SRC:%.c=$(B)/%)
SIM_SRC   := $(wildcard tests/sim/test_*.c)
SIM_BIN   := $(SIM_SRC:%.c=$(B)/%)
SIM_LIB   := $(patsubst %.c,$(B)/%.o,$(filter-out $(SIM_SRC),$(wildcard tests/sim/*.c)))
THREAD_SRC := $(wildcard tests/thread/*.c)
THREAD_BIN := $(THREAD_SRC:%.c=$(B)/%)
PROGRAMS  := sluiced sluicectl sluice-run

.PHONY: all
all: deps-check
	@$(MAKE) --no-print-directory V=$(V) programs

.PHONY: programs
programs: $(PROGRAMS:%=$(B)/%)
ifeq ($(V),release)
	@for p in $(PROGRAMS); do ln -sf release/$$p build/$$p; done
endif

.PHONY: deps-check
deps-check:
	@pkg-config --exists $(PKGS) 'hiredis >= 1.2.0' 'yyjson >= 0.10' 2>/dev/null || scripts/setup build

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $(V) $<"
	@$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c $< -o $@

$(TLIB_OBJ) $(SIM_LIB): CPPFLAGS += -Itests

$(B)/libsluice.a: $(LIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^

$(B)/sluiced: $(B)/src/bin/sluiced.o $(B)/libsluice.a
$(B)/sluicectl: $(CTL_OBJ) $(B)/libsluice.a
$(B)/sluice-run: $(B)/src/bin/sluice_run.o $(B)/libsluice.a
$(PROGRAMS:%=$(B)/%):
	@echo "  LD $(V) $@"
	@$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

# ---- tests
$(B)/libtests.a: $(TLIB_OBJ)
	@rm -f $@
	@ar rcs $@ $^
$(B)/tests/%: $(B)/tests/%.o $(SIM_LIB) $(B)/libtests.a $(B)/libsluice.a
	@echo "  LD $(V) $@"
	@$(CC) $(LDFLAGS_$(V)) $(LDFLAGS) -o $@ $^ $(ALL_LIBS) $(if $(findstring thread/,$@),,-lcriterion)
$(UNIT_BIN:%=%.o) $(SIM_BIN:%=%.o) $(THREAD_BIN:%=%.o): CPPFLAGS += -Itests

include scripts/targets.mk

-include $(shell find $(B) -name '*.d' 2>/dev/null)
