"""wavelift: waves of virtual machines from VMware vCenter into Amazon EC2, on Apache Airflow."""
