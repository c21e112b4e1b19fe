"""Commissaire's records in etcd."""
