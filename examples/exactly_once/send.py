"""Sends bookings to the worker beside this file, each under an id of its own, some of them twice."""

from uuid import uuid4

from zclient import Client, OutcomeUnknown


def main() -> None:
    with Client() as client:
        # An id is made first, and best kept where it survives this program: then sending it again is always safe.
        jobs = [(uuid4().hex, {"account": "ada", "amount": amount}) for amount in range(1, 101)]
        for identifier, booking in jobs:
            try:
                client.send("bookings", booking, id=identifier)
            except OutcomeUnknown:
                client.send("bookings", booking, id=identifier)  # stored or not: now it is, once
        for identifier, booking in jobs[:10]:
            client.send("bookings", booking, id=identifier)  # the same jobs; nothing happens twice
        balances = [client.result(identifier, timeout=30) for identifier, _ in jobs]
        print(len(set(balances)), "bookings, and the balance is", max(balances))

        interest = client.send("interest", {"account": "ada", "percent": 2}, id=uuid4().hex)
        print("with interest:", interest.result(timeout=30))


if __name__ == "__main__":
    main()
