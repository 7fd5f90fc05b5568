"""What can only be known by trying, tried in network namespaces of their own.

`python -m appliance.doctor.scratch` is the gateway: it leaves for a namespace of its own (without root in a user
namespace too), forks the client into another, tries, and prints one JSON object. The namespaces have no names: they are
gone with the two processes, and those die with the one that asked, however it ends.
"""
