"""Incidents: requests that failed, were refused for their values, or were answered by a fallback, kept to look at."""
