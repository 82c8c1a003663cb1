"""The Grafana dashboards of ../dashboards, which ../generate.py writes."""
