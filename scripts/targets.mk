# Targets besides building: tests, install, demo, help.

.PHONY: unit clean help
unit: $(UNIT_BIN)
	@scripts/run-criterion $(UNIT_BIN)

clean:
	rm -rf $(filter-out build/deps,$(wildcard build/*))

help:
	@echo "make            build sluiced, sluicectl, sluice-run into build/"
