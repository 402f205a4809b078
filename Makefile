PYTHON ?= python3
# The robot side alone, and the workshop with torch: two environments, so that the demo shows what a robot needs.
ROBOT ?= .venv
WORKSHOP ?= .venv-workshop
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Debian's python3 may come without venv and leave half an environment behind.
define environment
	$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1) || \
		{ rm -rf $(1); echo "make: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
endef

.PHONY: help demo test test-ros lint install workshop reference camvid espnet study-small clean

help:
	@echo "make demo       replay a multi-sensor bag through the reference bundle (installs the robot side into $(ROBOT))"
	@echo "make test       install everything the tests need into $(WORKSHOP) and run them all"
	@echo "make test-ros   build the ROS 2 workspace and test the node over DDS; one line where there is no ROS 2"
	@echo "make lint       ruff and mypy"
	@echo "make reference  render the world and train the reference bundle again (two and a half hours of one core when measured)"
	@echo "make study-small  compare all methods on six tasks of the world"
	@echo "make camvid     train base and dusk expert on the real CamVid frames (41 minutes of training when measured)"
	@echo "make espnet     the convolutional base with its Cityscapes weights: experts for dusk and for India"

$(ROBOT)/.installed: pyproject.toml
	$(call environment,$(ROBOT))
	$(ROBOT)/bin/python -m pip install --quiet --no-compile --editable .
	touch $@

$(WORKSHOP)/.installed: pyproject.toml
	$(call environment,$(WORKSHOP))
	$(WORKSHOP)/bin/python -m pip install --quiet --no-compile --editable '.[train,rtx,dev]'
	touch $@

install: $(ROBOT)/.installed
workshop: $(WORKSHOP)/.installed

demo: $(ROBOT)/.installed
	$(ROBOT)/bin/mile-edge demo --out out/demo

test: $(WORKSHOP)/.installed
	$(WORKSHOP)/bin/python -m pytest

# Needs a ROS 2: MILE_EDGE_ROS_SETUP=FILE, or one that is sourced, or one under /opt/ros.
test-ros:
	@bash ros2_ws/test.sh

lint: $(WORKSHOP)/.installed
	$(WORKSHOP)/bin/ruff check . && $(WORKSHOP)/bin/mypy

reference: $(WORKSHOP)/.installed
	PATH=$(CURDIR)/$(WORKSHOP)/bin:$$PATH sh studies/reference.sh
	PATH=$(CURDIR)/$(WORKSHOP)/bin:$$PATH WORK=out/reference/fusion BUNDLE=out/reference/bundle sh studies/fusion.sh
	@echo "The new bundle is out/reference/fusion/both; to ship it: rm -rf bundles/reference && cp -r out/reference/fusion/both bundles/reference"

camvid: $(WORKSHOP)/.installed
	PATH=$(CURDIR)/$(WORKSHOP)/bin:$$PATH sh studies/camvid.sh

espnet: $(WORKSHOP)/.installed
	PATH=$(CURDIR)/$(WORKSHOP)/bin:$$PATH sh studies/espnet.sh

study-small: $(WORKSHOP)/.installed
	$(WORKSHOP)/bin/mile-edge study studies/small.yaml --out out/studies/small

clean:
	rm -rf out build $(ROBOT) $(WORKSHOP) .venv-ros
