"""Locality-sensitive hash families: one file each, found by name through a registry."""

from nwsketch.hashing.angular import Angular
from nwsketch.hashing.base import (
    LARGEST_CELL,
    HashFamily,
    HashParameters,
    get_family,
    register,
    registered_families,
)
from nwsketch.hashing.minhash import MinHash
from nwsketch.hashing.p_stable import CauchyProjection, GaussianProjection
from nwsketch.hashing.plan import HashPlan
from nwsketch.hashing.random_binning import RandomBinning
from nwsketch.hashing.stored import plan_from_values, plan_values

__all__ = [
    "LARGEST_CELL",
    "Angular",
    "CauchyProjection",
    "GaussianProjection",
    "HashFamily",
    "HashParameters",
    "HashPlan",
    "MinHash",
    "RandomBinning",
    "get_family",
    "plan_from_values",
    "plan_values",
    "register",
    "registered_families",
]
