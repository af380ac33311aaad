// An ordering of a symmetric matrix for which its factor L stays sparse, and the pattern of that factor.
//
// Minimum degree on the quotient graph (George, Liu 1989; degrees bounded as by Amestoy, Davis, Duff, "An approximate
// minimum degree ordering algorithm", 1996): an eliminated vertex becomes an element, a clique of its neighbours that
// is never written out.
#pragma once

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

namespace conelayers {

using Indices = std::vector<int>;

struct Ordering {
    Indices order;  // vertices as they are eliminated
    std::vector<Indices>
        columns;  // for each of them the vertices left that it was adjacent to: the pattern of L's column
};

// `graph`: the neighbours of each vertex. `later`: vertices that must not go before one of their neighbours has gone.
inline Ordering minimum_degree(const std::vector<Indices>& graph, const std::vector<char>& later) {
    int size = static_cast<int>(graph.size());
    std::vector<Indices> vertices(graph), elements(size), members(size);
    std::vector<char> eliminated(size, 0), absorbed(size, 0), ready(size, 0);
    Indices degree(size), mark(size, -1), outside(size, 0), outside_mark(size, -1);
    std::set<std::pair<std::pair<int, int>, int>> queue;
    auto key = [&](int v) { return std::make_pair(std::make_pair(ready[v] ? 0 : 1, degree[v]), v); };
    for (int v = 0; v < size; v++) {
        ready[v] = !later[v];
        degree[v] = static_cast<int>(vertices[v].size());
        queue.insert(key(v));
    }
    Ordering result;
    int left = size;
    while (!queue.empty()) {
        int pivot = queue.begin()->second;
        queue.erase(queue.begin());
        // The new element: all that the pivot is adjacent to, directly or through elements, which it absorbs.
        Indices reach;
        mark[pivot] = pivot;
        auto visit = [&](int u) {
            if (!eliminated[u] && mark[u] != pivot) {
                mark[u] = pivot;
                reach.push_back(u);
            }
        };
        for (int u : vertices[pivot]) visit(u);
        for (int e : elements[pivot]) {
            for (int u : members[e]) visit(u);
            absorbed[e] = 1;
            Indices().swap(members[e]);
        }
        eliminated[pivot] = 1;
        left--;
        // |Lₑ \ L_pivot| of every element that touches the new one.
        for (int u : reach)
            for (int e : elements[u]) {
                if (absorbed[e]) continue;
                if (outside_mark[e] != pivot) {
                    outside_mark[e] = pivot;
                    int count = 0;
                    for (int w : members[e]) count += !eliminated[w];
                    outside[e] = count;
                }
                outside[e]--;
            }
        int size_of_reach = static_cast<int>(reach.size());
        for (int u : reach) {
            queue.erase(key(u));
            auto& own = elements[u];
            own.erase(std::remove_if(own.begin(), own.end(), [&](int e) { return absorbed[e]; }), own.end());
            // Neighbours inside the new element are reached through it from now on.
            auto& direct = vertices[u];
            auto gone = [&](int w) { return eliminated[w] || mark[w] == pivot; };
            direct.erase(std::remove_if(direct.begin(), direct.end(), gone), direct.end());
            int bound = static_cast<int>(direct.size()) + size_of_reach - 1;
            for (int e : own) bound += outside[e];
            own.push_back(pivot);
            degree[u] = std::min({left - 1, degree[u] + size_of_reach, bound});
            ready[u] = 1;
            queue.insert(key(u));
        }
        members[pivot] = reach;
        Indices().swap(vertices[pivot]);
        result.order.push_back(pivot);
        result.columns.push_back(std::move(reach));
    }
    return result;
}

}  // namespace conelayers
