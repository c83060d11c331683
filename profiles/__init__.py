"""Fitted profiles and published measurements, shipped as data files beside this module."""
