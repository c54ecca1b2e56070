"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """What is wrong and what to do about it, in one line; a script prints it and exits with status 2."""


WORKER_DIED = "a process that decodes images was killed (memory or /dev/shm short?): use fewer --num_workers"
