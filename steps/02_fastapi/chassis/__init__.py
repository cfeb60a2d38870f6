"""The chassis: what every service has in common. Each service holds an identical copy of this folder."""
