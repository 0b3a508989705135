"""moto as the control plane: its classes, with our own actions in front where moto lacks a call or a check.

moto reads its settings from the environment when it is imported, so they are set here, before any module of this
package imports it.
"""

from __future__ import annotations

import os

from wavelift.simulators.aws.settings import ACCOUNT

os.environ.update(
    {
        "MOTO_ACCOUNT_ID": ACCOUNT,
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
        "MOTO_ENABLE_AMI_VALIDATION": "true",
        "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
        "DISABLE_GLOBAL_CORS": "true",
    }
)
