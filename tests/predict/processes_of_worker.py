"""A worker as a process of its own, with a model that needs no file."""

WORK = """
import threading
from truthloop.settings import load_settings
from truthloop.workspace import Workspace

with Workspace.open(load_settings(), create=True) as workspace:
    workspace.run_worker(threading.Event(), models=["opencv_faces"], ready=lambda: print("ready", flush=True))
"""
