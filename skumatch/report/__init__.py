"""The report page of a run and its model card, made from the results of the stages."""
