"""For the kernels of .venv; `make setup` copies it to .venv/etc/ipython, where ipykernel looks.

Each kernel warns that it speaks over TCP without encryption. papermill and Jupyter start it on this machine and talk to it over the
loopback, so that one sentence is left out. Every other warning of the kernel still stands in the terminal.
"""
import logging

logging.getLogger("IPKernelApp").addFilter(lambda record: "running over TCP without encryption" not in record.getMessage())
