# Everything there is to do with a source tree. All of it works on a Debian that has nothing but python3 and make,
# writes nothing outside this folder, and needs no root.

PYTHON ?= python3
DEBIANS_PYTHON ?= /usr/bin/python3
export PATH := $(CURDIR)/.tools/bin:$(PATH)
# The tests start some hundred Pythons: what one has compiled serves the next, also where the machine's images say no.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv/complete
CUSTODIA := .venv-custodia/complete
OPENBAO := .venv-openbao/complete
CONVECTION := .venv-convection/complete
ANSIBLE := .venv-ansible/complete
ETCD3 := .venv-etcd3/complete
SCHEMATHESIS := .venv-schemathesis/complete

# Tests mostly wait, so there is one process more than the two cores that are reckoned with (docs/adr/0029).
PYTEST := .venv/bin/pytest
SIDE_BY_SIDE := --numprocesses 3 --dist loadgroup
# What needs no server, and hardly a process beside the tests.
QUICK := tests/models tests/access tests/service tests/backup tests/keyring tests/laws/test_backend_law.py
KILLS := kill or fault_at or flat_memory or lost_answers
# What is measured for the floor of coverage: what runs in the process of the tests (docs/adr/0035).
COVERED := $(QUICK) tests/jose $(addprefix tests/migration/test_,$(addsuffix .py,apply plan scrub rollback verify journal \
	source_csv source_json_lines source_key_directory)) $(addprefix tests/deploy/test_,$(addsuffix .py,command settings steps))

.PHONY: help setup run check format test quick coverage soak bench man deb docs lock clean

help: ## say what there is (this list)
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(VENV) ## make .venv with everything Strongroom and its developers need, each wheel checked against its hash

run: $(VENV) ## start Strongroom, store a sample secret through it, show what the store holds; Ctrl-C ends it
	@.venv/bin/python -m strongroom.deploy.tools.demo $(if $(ONCE),--once)

check: $(VENV) ## format, lint, types, the floors between the rooms
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/lint-imports
	.venv/bin/mypy

format: $(VENV) ## write the client's blocking face, format the code and mend what ruff can
	.venv/bin/python -m strongroom.deploy.tools.faces
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

test: check $(CUSTODIA) $(OPENBAO) $(CONVECTION) $(ANSIBLE) $(ETCD3) $(SCHEMATHESIS) test-tools ## check, and run every test against real parts: etcd, Custodia, OpenBao, Convection, Ansible, systemd
	$(PYTEST) $(SIDE_BY_SIDE) $(ARGS)

quick: check ## check, and run what needs no server and kills nobody
	$(PYTEST) $(SIDE_BY_SIDE) -m "not campaign" -k "not (etcd or $(KILLS))" $(ARGS) $(QUICK)

coverage: $(VENV) ## measure the lines that tests without servers run, against the floor in pyproject.toml
	@mkdir -p .run
	.venv/bin/coverage run -m pytest -q -m "not campaign" -k "not (etcd or $(KILLS))" $(ARGS) $(COVERED)
	.venv/bin/coverage report --skip-covered

soak: $(VENV) ## run the campaigns, TIMES (20) times as far as `make test` goes: for changes to what they are about
	STRONGROOM_SOAK=$(or $(TIMES),20) $(PYTEST) $(SIDE_BY_SIDE) -m campaign $(ARGS)

bench: $(VENV) $(CUSTODIA) $(OPENBAO) bench-tools ## measure against OpenBao and Custodia; ROUNDS=1 QUICK=1 for a fast look
	.venv/bin/python -m benchmarks $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick)

man: $(VENV) ## write the manual page, build/strongroom.1, from the commands
	.venv/bin/python -m strongroom.deploy.tools.man build/strongroom.1

deb: ## make the Debian package, build/strongroom_….deb, for the Debian that this is; VERSION=… for another version
	$(DEBIANS_PYTHON) -m deploy.tools.build_deb $(if $(VERSION),--version $(VERSION))

docs: $(VENV) ## check that every link in the documentation leads somewhere and every command in it exists
	.venv/bin/pytest -q tests/test_docs.py

lock: .venv/bin/pip-compile ## write requirements/*.txt anew from pyproject.toml and requirements/*.in; LOCK=--upgrade for newer versions
	$(COMPILE) --output-file requirements/run.txt --extra server pyproject.toml
	$(COMPILE) --output-file requirements/build.txt requirements/build.in
	$(COMPILE) --output-file requirements/dev.txt --extra server --extra dev --constraint requirements/run.txt \
		--constraint requirements/build.txt pyproject.toml
	$(COMPILE) --output-file requirements/custodia.txt requirements/custodia.in
	$(COMPILE) --output-file requirements/openbao.txt requirements/openbao.in
	$(COMPILE) --output-file requirements/convection.txt requirements/convection.in
	$(COMPILE) --output-file requirements/ansible.txt requirements/ansible.in
	$(COMPILE) --output-file requirements/etcd3.txt requirements/etcd3.in
	$(COMPILE) --output-file requirements/schemathesis.txt requirements/schemathesis.in

COMPILE = CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options $(LOCK)

# Not $(VENV): a pyproject.toml that asks for something new cannot be installed before it is locked.
.venv/bin/pip-compile:
	$(MAKE) setup

clean: ## remove all that was made here, and nothing else
	rm -rf .venv .venv-custodia .venv-openbao .venv-convection .venv-ansible .venv-etcd3 .venv-schemathesis .tools .run build *.egg-info
	rm -rf .mypy_cache .ruff_cache .import_linter_cache .hypothesis .editable
	find strongroom -type l -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): requirements/dev.txt requirements/build.txt pyproject.toml
	@echo "setting up .venv: a minute or two, 300 MB"
	$(PYTHON) -m deploy.tools.make_venv $(@D) requirements/build.txt requirements/dev.txt --project . --editable

$(CUSTODIA): requirements/custodia.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) $<

$(OPENBAO): requirements/openbao.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) $<

$(CONVECTION): requirements/convection.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) $<

$(ANSIBLE): requirements/ansible.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) $<

$(ETCD3): requirements/etcd3.txt requirements/build.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) requirements/build.txt $<

$(SCHEMATHESIS): requirements/schemathesis.txt
	$(PYTHON) -m deploy.tools.make_venv $(@D) $<

.PHONY: test-tools bench-tools
test-tools:
	@$(PYTHON) -m deploy.tools.fetch_debian etcd=etcd-server etcdctl=etcd-client stunnel=stunnel4 \
		systemd-analyze=systemd ssh-keygen=openssh-client curl=curl openssl=openssl sqlite3=sqlite3

bench-tools:
	@$(PYTHON) -m deploy.tools.fetch_debian etcd=etcd-server wrk=wrk
