# Pipes, loops, background jobs and files, in the folder that is given.
cd "$1" || exit 1
echo "one line" > a
for i in 5 3 1 4 2; do echo "line $i"; done >> a
cat a | sort -r | head -n 3
wc -l < a
sort a | md5sum
dd if=/dev/zero of=zeros bs=1000 count=333 2> log && tail -n +2 log | head -n 1
md5sum zeros < /dev/null
i=0
while [ $i -lt 20 ]; do i=$((i + 1)); printf '%s ' $((i * i)); done
echo
(sleep 0.2; echo "from the background" > late) &
first=$!
(exit 7) &
wait $!
echo "status $?"
wait $first
cat late
seq 1 2000 | grep 7 | awk '{ sum += $1 } END { print sum }'
mkdir -p deep/er
cp a deep/er/copy
mv deep/er/copy deep/moved
ln -s deep/moved link
cat link | tail -n 1
ls deep
find . -type f | sort
sed -i 's/line/LINE/' a
cat a
rm -r deep
[ -e link ] || echo "link leads nowhere"
test -d deep || echo "deep is gone"
trap 'echo "trapped"' USR1
kill -USR1 $$
cat << END | tr a-z A-Z
here is a document of $((6 * 7)) parts
END
yes | head -n 100000 | wc -c
kill -9 $(sh -c 'sleep 100 > /dev/null & echo $!') && echo killed
f() { [ "$1" -le 1 ] && echo 1 || echo $(($1 * $(f $(($1 - 1))))); }
f 6
truncate -s 3 a
od -c a
exit 42
