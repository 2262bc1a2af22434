"""Ground floor: what every room stands on and what knows no room.

`layout` and `settings` say where and how; `ids`, `clock`, `errors` name things; `database`,
`blobs` and `jobs` keep them; `authorization` and `audit` say who may and who did; `keys` signs.
"""
