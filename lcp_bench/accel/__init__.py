"""Acceleration as data: plans, scopes, estimators, and the strategies of the paper under study."""
