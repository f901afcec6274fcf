# A thin front of Meson: `make help` lists what there is.

BUILD ?= build
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
MESON_FLAGS ?=

# The tests of the whole program that also run in instrumented builds: all but those that build or install by themselves.
INSTRUMENTED = '^(conformance|isolation$$|kill|images|api|openapi$$|cli|docs|leftover)'

# Meson looks for sources when it configures, so a new or removed file means configuring anew.
define configure
@if [ ! -f $(1)/build.ninja ]; then $(3) meson setup $(1) --prefix $(PREFIX) $(2) $(MESON_FLAGS) || exit 1; \
elif ! tools/glob . all | cmp -s - $(1)/sources.list; then meson setup --reconfigure $(1) > /dev/null || exit 1; fi
@tools/glob . all > $(1)/sources.list
endef

.PHONY: all test bench install lint fuzz unit-asan asan coverage release-check clean help

all:
	$(call configure,$(BUILD))
	@ninja -C $(BUILD) -j$(JOBS)

test: all
	meson test -C $(BUILD) --no-rebuild --print-errorlogs
	@if [ "$$(id -u)" = 0 ]; then MAYFLY_BUILD=$(abspath $(BUILD)) tools/test.sh --installed; \
	else echo 'tests of the whole program need root: sudo tools/test.sh'; fi

bench: all
	MAYFLY_BUILD=$(abspath $(BUILD)) bench/run

install: all
	meson install -C $(BUILD) --no-rebuild

lint: all
	tools/lint -b $(BUILD)

fuzz:
	$(call configure,$(BUILD)-fuzz,-Dfuzz=true,CC=clang)
	@ninja -C $(BUILD)-fuzz -j$(JOBS)
	tools/fuzz $(BUILD)-fuzz $(FUZZ_SECONDS)

unit-asan:
# The compiler needs half the time, and drops no more of what the sanitizers look at.
	$(call configure,$(BUILD)-asan,-Db_sanitize=address$(comma)undefined -Doptimization=1)
	@ninja -C $(BUILD)-asan -j$(JOBS)
	meson test -C $(BUILD)-asan --no-rebuild --print-errorlogs

asan: unit-asan
	@if [ "$$(id -u)" = 0 ]; then \
		MAYFLY_BUILD=$(abspath $(BUILD)-asan) tools/test.sh --installed --only $(INSTRUMENTED); fi

coverage:
	$(call configure,$(BUILD)-coverage,-Db_coverage=true -Dbuildtype=debug)
	@ninja -C $(BUILD)-coverage -j$(JOBS)
	meson test -C $(BUILD)-coverage --no-rebuild --print-errorlogs
# The programs run as several users and under strict umasks, and share counters: the files are there before them, for all.
	@find $(BUILD)-coverage -name '*.gcno' | sed 's/gcno$$/gcda/' | while read -r f; do : >>"$$f"; done
	@chmod -R a+rwX $(BUILD)-coverage
	@if [ "$$(id -u)" = 0 ]; then \
		MAYFLY_BUILD=$(abspath $(BUILD)-coverage) tools/test.sh --installed --only $(INSTRUMENTED); fi
	@find $(BUILD)-coverage -name '*.gcda' -empty -delete
# Processes that share counters without a lock leave a negative one now and then, which gcovr otherwise fails at.
	gcovr --root . --filter src/ --fail-under-line 80 --gcov-ignore-parse-errors --exclude '.*/(test|fuzz|gen)_[^/]*\.c' --exclude src/launcher/init/ $(BUILD)-coverage

release-check: lint asan coverage fuzz
	MAYFLY_BUILD=$(abspath $(BUILD)) tools/test.sh --long

clean:
	rm -rf $(BUILD) $(BUILD)-fuzz $(BUILD)-asan $(BUILD)-coverage

help:
	@echo 'make                build the programs into $(BUILD)/'
	@echo 'make test           unit tests, corpus runs, and as root the tests of the whole program'
	@echo 'make bench          measure, side by side with what else is on the machine'
	@echo 'make install        install below PREFIX (and DESTDIR)'
	@echo 'make lint           layers, headers, format, clang-tidy, cppcheck; tools/lint src/FOLDER for one folder'
	@echo 'make fuzz           run each fuzzer for FUZZ_SECONDS=$(FUZZ_SECONDS)'
	@echo 'make asan           the tests under the address and undefined behaviour sanitizers'
	@echo 'make coverage       line coverage of src/, at least 80%'
	@echo 'make release-check  everything, and what is too long for every day'
	@echo 'make clean          remove the build directories'

comma := ,
