"""The measurements: Strongroom beside OpenBao and Custodia, in one run, on one machine, with one load.

Peers are started from what is on this machine and stopped again; all traffic stays on the loopback interface and on
unix sockets. ``make bench`` runs everything and keeps the table in ``benchmarks/RESULTS.md``.
"""
