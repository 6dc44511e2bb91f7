"""Cached predictions: what a model answered before, for when nothing else can answer."""
