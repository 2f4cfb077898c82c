"""What homes say to each other (Matrix server-server API): who may ask, what is asked, what is sent and sent again."""
