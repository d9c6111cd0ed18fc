"""The dashboard: pages for a browser, rendered here, from the daemon alone."""
