"""Load tests of a gateway: Locust users, shapes, thresholds, reports and capacity.

Your own locustfile needs only `from dermserve.loadtest.users import ClassifyUser`.
"""
